"""Compaction: many small score files become one, in a new generation folder, while other processes read.

A generation is written aside and appears by one rename. Earlier readers keep their list of files of the old generation,
which therefore stays for a grace period. The caller holds the run's writer lock, so no other process writes scores.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from medsam3_core.errors import StoreError
from storage.catalog.catalog import catalog_is_current, publish_catalog
from storage.catalog.engine import open_engine
from storage.catalog.relations import COMPACTED_FILE, catalog_sources, groups_folder, is_compacted
from storage.catalog.scores_sql import lasting_scores_sql
from storage.catalog.views import catalog_statements
from storage.store import schemas
from storage.store.atomic import remove, replacing
from storage.store.layout import StoreLayout
from storage.store.locations import is_remote
from storage.store.runs import run_ids
from storage.store.tables import table_files

GRACE_SECONDS = 3600.0
"""Longer than any query or open page; a reader that lists the files again does not need the old generation."""

_ROWS_PER_GROUP = 122_880  # the engine's own unit of parallel work

MAX_LOOSE_FILES = 64
"""Number of score files of a run up to which queries stay fast without compaction."""

MAX_LOOSE_BYTES = 16_000_000
"""Size of the scores of a run, about 100,000 rows, above which the leaderboard is slow without the kept groups."""


def runs_to_compact(store: StoreLayout, *, more_files_than: int = MAX_LOOSE_FILES) -> list[str]:
    """Runs whose scores are in so many files, or so large, that they slow queries down."""

    def is_slow(files: list[Path]) -> bool:
        return len(files) > more_files_than or sum(file.stat().st_size for file in files) > MAX_LOOSE_BYTES

    files_of = {run: table_files(store.scores(run)) for run in run_ids(store)}
    return [run for run, files in files_of.items() if not is_compacted(files) and is_slow(files)]


def tidy_scores(store: StoreLayout, written: Sequence[str]) -> None:
    """Compact the runs of a benchmark that have many files, and remove generations replaced long ago.

    Args:
        store: The store.
        written: Runs whose writer locks the caller holds.
    """
    for run_id in runs_to_compact(store):
        if run_id in written:
            compact_scores(store, run_id)
    sweep_generations(store)


def compact_scores(store: StoreLayout, run_id: str) -> Path | None:
    """Write the scores of a run as one file of a new generation; every query gives the same answer before and after.

    Returns:
        The new generation, or None if there is nothing to compact.

    Raises:
        StoreError: If a table cannot be read, or scores of this run were written meanwhile; then nothing has changed.
    """
    old = store.scores(run_id)
    files = table_files(old)
    if not files or is_compacted(files):
        return None
    new = old.with_name(f"gen-{int(old.name.removeprefix('gen-')) + 1:04d}")
    with replacing(new) as scratch:
        scratch.mkdir()
        _write_lasting_scores(store, run_id, scratch / COMPACTED_FILE)
        keep_groups(store, run_id, groups_folder(scratch))
        if table_files(old) != files:
            msg = f"scores of run {run_id} were written during compaction; compact it when the run has ended"
            raise StoreError(msg)
    return new


def sweep_generations(store: StoreLayout, *, older_than_seconds: float = GRACE_SECONDS) -> int:
    """Remove generations that were replaced longer ago than that; returns their number.

    A published catalog that still reads one of them is published again first.
    """
    replaced = replaced_generations(store, older_than_seconds=older_than_seconds)
    if replaced and store.catalog().exists() and not catalog_is_current(store):
        publish_catalog(store)
    for folder in replaced:
        remove(folder)
    return len(replaced)


def replaced_generations(store: StoreLayout, *, older_than_seconds: float = GRACE_SECONDS) -> list[Path]:
    """Generations that were replaced longer ago than that."""
    limit = time.time() - older_than_seconds
    found: list[Path] = []
    for newest in (store.scores(run) for run in run_ids(store)):
        if newest.is_dir() and _appeared(newest) <= limit:
            found += sorted(folder for folder in newest.parent.glob("gen-*") if folder != newest)
    return found


def _appeared(generation: Path) -> float:
    """Time at which a generation appeared: that of its folder or, in an object store, of its tables."""
    parts = table_files(generation) if is_remote(generation) else [generation]
    return max((part.stat().st_mtime for part in parts), default=time.time())


def _write_lasting_scores(store: StoreLayout, run_id: str, target: Path) -> None:
    """Write the rows sorted by case, so that a query on one case skips the others."""
    rows = lasting_scores_sql(catalog_sources(store, live=False, only_run=run_id))
    query = f"SELECT * FROM ({rows}) ORDER BY case_id, rater, structure, protocol"
    try:
        with (
            open_engine(store) as con,
            pq.ParquetWriter(target, schemas.SCORES, compression="zstd") as writer,
        ):
            for batch in con.sql(query).to_arrow_reader(_ROWS_PER_GROUP):
                writer.write_table(pa.Table.from_batches([batch]).cast(schemas.SCORES))
    except duckdb.Error as error:
        msg = f"cannot compact scores of run {run_id}: {error}"
        raise StoreError(msg) from error


def keep_groups(store: StoreLayout, run_id: str, folder: Path) -> None:
    """Write the score groups of a run, which the leaderboard shows, into a new folder, with their group key.

    Raises:
        StoreError: If a table cannot be read.
    """
    query = "SELECT *, group_key AS fingerprint FROM internal.score_groups"
    try:
        with open_engine(store) as con:
            for statement in catalog_statements(catalog_sources(store, live=False, only_run=run_id), naming=query):
                con.execute(statement)
            groups = con.sql(query).to_arrow_table()
    except duckdb.Error as error:
        msg = f"cannot summarise scores of run {run_id}: {error}"
        raise StoreError(msg) from error
    folder.mkdir()
    pq.write_table(groups.select(schemas.GROUPS.names).cast(schemas.GROUPS), folder / "groups.parquet")
