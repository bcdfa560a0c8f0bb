"""Many small score files become one, in a new generation folder, while others read.

A generation is written aside and appears by one rename. Readers that began before keep their list of files of the old
generation, which therefore stays for a grace period. The caller holds the run's writer lock: nobody else writes scores.
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
"""Longer than any query or open page; a reader that lists files anew never needs the old generation."""

_ROWS_PER_GROUP = 122_880  # the engine's own unit of parallel work


FEW_FILES = 64
"""A run with no more score files than that is left as its workers wrote it: queries do not feel them."""

MUCH_BYTES = 16_000_000
"""About 100,000 rows: from there on the leaderboard is felt, unless compaction has kept its groups."""


def runs_to_compact(store: StoreLayout, *, more_files_than: int = FEW_FILES) -> list[str]:
    """Runs whose scores stand in so many files, or are so many, that queries feel it."""
    return [run for run in run_ids(store) if _is_felt(table_files(store.scores(run)), more_files_than)]


def _is_felt(files: Sequence[Path], more_files_than: int) -> bool:
    if is_compacted(list(files)):
        return False
    return len(files) > more_files_than or sum(file.stat().st_size for file in files) > MUCH_BYTES


def tidy_scores(store: StoreLayout, written: Sequence[str]) -> None:
    """After a benchmark: compact what it has written if that is many files, and sweep what was replaced long ago.

    Args:
        store: The store.
        written: Runs whose writer locks the caller holds.
    """
    for run_id in runs_to_compact(store):
        if run_id in written:
            compact_scores(store, run_id)
    sweep_generations(store)


def compact_scores(store: StoreLayout, run_id: str) -> Path | None:
    """Write the scores of a run as one file of a new generation; every query answers the same before and after.

    Returns:
        The new generation, or None if there is nothing to compact.

    Raises:
        StoreError: If a table cannot be read, or somebody wrote scores of this run meanwhile; nothing has changed then.
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
    """Remove generations that were replaced longer ago than that; returns how many.

    A published catalog that still reads one of them is written anew first.
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
    return [folder for run in run_ids(store) for folder in _replaced_generations(store, run, limit)]


def _replaced_generations(store: StoreLayout, run_id: str, limit: float) -> list[Path]:
    newest = store.scores(run_id)
    if not newest.is_dir() or _appeared(newest) > limit:
        return []
    return sorted(folder for folder in newest.parent.glob("gen-*") if folder != newest)


def _appeared(generation: Path) -> float:
    """When a generation appeared: a folder knows it, of an object store the tables do."""
    parts = table_files(generation) if is_remote(generation) else [generation]
    return max((part.stat().st_mtime for part in parts), default=time.time())


def _write_lasting_scores(store: StoreLayout, run_id: str, target: Path) -> None:
    """Sorted by case, so that the engine skips what a query on one case does not need."""
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
    """Write what the leaderboard shows of a run into a new folder, with the key of what it rests on.

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
