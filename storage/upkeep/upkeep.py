"""Upkeep of a store: removal of files that no result needs, and compaction of small files.

Removable are scratch files of killed processes, notes of batches that have ended, replaced generations of scores, and
encodings beyond a size. Compaction of scores takes the writer lock of the run, so it does not disturb a running
benchmark.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medsam3_core.errors import StoreError
from storage.catalog.catalog import publish_catalog
from storage.catalog.compaction import compact_scores, replaced_generations, runs_to_compact, sweep_generations
from storage.store.atomic import TEMPORARY_PREFIX, remove
from storage.store.layout import StoreLayout
from storage.store.locations import is_remote
from storage.store.writers import writing
from storage.weights.encodings import CacheSettings, trim_cache


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Result of upkeep, or of a dry run.

    Attributes:
        leftovers: Scratch files and folders of killed processes, and notes of their batches.
        generations: Replaced generations of scores.
        encodings: Encodings beyond the size.
        compacted: Runs whose scores became one file.
        busy: Runs skipped because another process is writing them.
        freed_bytes: Size of all removed files.
    """

    leftovers: int = 0
    generations: int = 0
    encodings: int = 0
    compacted: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()
    freed_bytes: int = 0


def prune_store(
    store: StoreLayout, *, encodings_size: int | None, leftover_seconds: float, dry_run: bool = False
) -> Upkeep:
    """Remove files that no result needs.

    Args:
        store: The store.
        encodings_size: Bytes to which the cache of encodings is trimmed; None keeps it whole.
        leftover_seconds: Age above which a scratch file belongs to a killed process.
        dry_run: Only count.
    """
    leftovers = list(_leftovers(store, time.time() - leftover_seconds))
    generations = replaced_generations(store)
    encodings = _encodings_beyond(store, encodings_size)
    freed = sum(_size(path) for path in (*leftovers, *generations, *encodings))
    if not dry_run:
        for path in leftovers:
            remove(path)
        sweep_generations(store)
        if encodings_size is not None:
            trim_cache(CacheSettings(store.encodings(), encodings_size))
    return Upkeep(len(leftovers), len(generations), len(encodings), freed_bytes=freed)


def compact_store(store: StoreLayout, *, more_files_than: int) -> Upkeep:
    """Compact the scores of runs with many files, and publish the catalog.

    Raises:
        StoreError: If a table cannot be read.
    """
    compacted, busy = [], []
    for run_id in runs_to_compact(store, more_files_than=more_files_than):
        try:
            with writing(store, [run_id]):
                compact_scores(store, run_id)
        except StoreError as error:
            if "is being written" not in str(error):
                raise
            busy.append(run_id)
        else:
            compacted.append(run_id)
    publish_catalog(store)
    return Upkeep(compacted=tuple(compacted), busy=tuple(busy))


def _leftovers(store: StoreLayout, limit: float) -> Iterator[Path]:
    if not is_remote(store.root):  # an object store has no partial files
        yield from (path for path in store.root.rglob(f"{TEMPORARY_PREFIX}*") if _changed(path) < limit)
    if store.breadcrumbs().is_dir():
        yield from (path for path in store.breadcrumbs().iterdir() if _changed(path) < limit)


def _encodings_beyond(store: StoreLayout, size: int | None) -> list[Path]:
    """The least recently used encodings that make the cache larger than this."""
    if size is None:
        return []
    entries = sorted(store.encodings().glob("??/*.npy"), key=_changed)
    total, beyond = sum(_size(path) for path in entries), []
    for path in entries:
        if total <= size:
            break
        beyond.append(path)
        total -= _size(path)
    return beyond


def _changed(path: Path) -> float:
    """Time of the last change of a file; now if it has just been removed."""
    try:
        if is_remote(path):
            return max((item.stat().st_mtime for item in (path, *path.rglob("*")) if item.is_file()), default=0.0)
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _size(path: Path) -> int:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.exists())
