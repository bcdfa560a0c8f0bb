"""`medsam3 sql`: query the catalog."""

from pathlib import Path

from flows.messages.tables import print_table
from flows.settings.options import store_to_read
from storage.catalog.guard import run_sql


def run_query(root: Path, query: str, form: str) -> int:
    """Run one SELECT and print its rows in a `TableFormat`; exit code 0."""
    print_table(run_sql(store_to_read(root), query), form)
    return 0
