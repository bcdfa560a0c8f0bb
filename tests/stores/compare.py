"""Compare the demo store of another commit with today's: a move of code changes no row.

    git worktree add --detach /tmp/before COMMIT
    python -m tests.stores.compare /tmp/before

Both commits run `medsam3 demo` into a folder of their own. Compared are the tables `scores`, `plan` and `outcomes` and
the ids of all runs: the store of the other commit as each of the two reads it, in every column; and the two stores
against each other, without the columns that tell one execution from another (times, attempts, memory).
Exit code 1 and the first rows that differ, if any do.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import pandas as pd
import pyarrow.parquet as pq

from tests import ROOT

TABLES = ("scores", "plan", "outcomes", "runs")
OF_ONE_EXECUTION = {
    "attempt", "finished_at", "planned_at", "created_at", "peak_rss_bytes", "git_commit", "machine", "versions",
}  # fmt: skip
SHOWN_ROWS = 5


def run_medsam3(checkout: Path, *words: object, **options: object) -> None:
    """Run the command line of a checkout, with the packages of this Python."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    subprocess.run(
        [sys.executable, "-m", "flows", *map(str, words)], cwd=checkout, env=environment, check=True, **options
    )


def rows_of(checkout: Path, store: Path, table: str, folder: Path) -> pd.DataFrame:
    """A table of a store as a checkout reads it, sorted by all its columns."""
    target = folder / f"{table}.parquet"
    with target.open("wb") as out:
        run_medsam3(checkout, "sql", f"SELECT * FROM {table}", "--format", "parquet", "--store", store, stdout=out)
    frame = pq.read_table(target).to_pandas()
    order = as_text(frame).sort_values(list(frame.columns)).index
    return frame.loc[order].reset_index(drop=True)


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Every value as text, so that NULL equals NULL and lists can be sorted."""
    return frame.astype(object).map(repr)


def differences(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """How two tables differ, in words; empty where they are equal."""
    if list(before.columns) != list(after.columns):
        return [f"columns {list(before.columns)} before, {list(after.columns)} after"]
    if len(before) != len(after):
        return [f"{len(before)} rows before, {len(after)} after"]
    one, other = as_text(before), as_text(after)
    changed = [column for column in before.columns if (one[column] != other[column]).any()]
    return [
        f"{column}, row {row}: {one[column][row]} before, {other[column][row]} after"
        for column in changed
        for row in one.index[one[column] != other[column]][:SHOWN_ROWS]
    ]


def without_execution(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that any execution must repeat."""
    kept = [name for name in frame.columns if name not in OF_ONE_EXECUTION and not name.startswith("seconds")]
    order = as_text(frame[kept]).sort_values(kept).index
    return frame.loc[order, kept].reset_index(drop=True)


@click.command()
@click.argument("before", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--cases", default=10, show_default=True, help="Phantom cases per cohort of the demo.")
def main(before: Path, cases: int) -> None:
    """Compare the demo store of the checkout BEFORE with today's."""
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old, new = folder / "before-store", folder / "after-store"
        run_medsam3(before.resolve(), "demo", "--store", old, "--cases", cases, stdout=subprocess.DEVNULL)
        run_medsam3(ROOT, "demo", "--store", new, "--cases", cases, stdout=subprocess.DEVNULL)
        for table in TABLES:
            theirs = rows_of(before.resolve(), old, table, folder)
            same_store = differences(theirs, rows_of(ROOT, old, table, folder))
            both = differences(without_execution(theirs), without_execution(rows_of(ROOT, new, table, folder)))
            for what, found in (("one store, read by both", same_store), ("both stores", both)):
                click.echo(f"{table}, {what}: {len(theirs)} rows, {'; '.join(found) or 'equal'}")
                failed |= bool(found)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
