"""A public view as it is."""

import pyarrow as pa

from medsam3_core.errors import UsageError
from storage.catalog.guard import run_sql
from storage.catalog.views import PUBLIC_VIEWS
from storage.store.layout import StoreLayout


def read_view(store: StoreLayout, name: str) -> pa.Table:
    """All rows and columns of a view.

    Raises:
        UsageError: If there is no such view; lists what exists.
        StoreError: If a table that it needs is damaged or newer than this version.
    """
    if name not in PUBLIC_VIEWS:
        msg = f"unknown view {name!r}; choose one of: {', '.join(PUBLIC_VIEWS)}"
        raise UsageError(msg)
    return run_sql(store, f"SELECT * FROM {name}")
