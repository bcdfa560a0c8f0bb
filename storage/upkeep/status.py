"""Content of a store: cohorts, runs with their progress, disk use, leftovers of killed processes."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.catalog.queries.status import RunStatus, SplitCount, counted_cases
from storage.cohorts.cohorts import cohort_names, read_cohort
from storage.store.atomic import TEMPORARY_PREFIX
from storage.store.layout import StoreLayout
from storage.store.locations import file_system, is_remote, object_key


@dataclass(frozen=True, slots=True)
class CohortStatus:
    """One cohort: accepted and rejected cases, cases per split ("" without splits), and the licence of its data."""

    name: str
    accepted: int
    rejected: int
    splits: dict[str, int]
    licence: str


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """Content of a store.

    Attributes:
        cohorts: Cohorts by name.
        runs: Runs by cohort and last activity.
        files: Files in the store.
        size_bytes: Their size.
        leftovers: Scratch files and folders of killed or running processes.
    """

    cohorts: tuple[CohortStatus, ...]
    runs: tuple[RunStatus, ...]
    files: int
    size_bytes: int
    leftovers: int


def read_status(store: StoreLayout) -> StoreStatus:
    """Read the status of a store from its tables and files; writes nothing.

    Raises:
        StoreError: If a table is not of this version; names it.
    """
    splits, runs = counted_cases(store)
    cohorts = tuple(_cohort(store, name, splits) for name in cohort_names(store))
    files = size = leftovers = 0
    for name, is_file, number in _objects(store.root) if is_remote(store.root) else _entries(str(store.root)):
        files, size = files + is_file, size + number
        leftovers += name.startswith(TEMPORARY_PREFIX)
    return StoreStatus(cohorts, runs, files, size, leftovers)


def _cohort(store: StoreLayout, name: str, splits: Sequence[SplitCount]) -> CohortStatus:
    own = [item for item in splits if item.cohort == name]
    return CohortStatus(
        name,
        sum(item.accepted for item in own),
        sum(item.rejected for item in own),
        {item.split: item.accepted + item.rejected for item in own},
        read_cohort(store, name).recipe.licence,
    )


def _objects(root: Path) -> Iterator[tuple[str, bool, int]]:
    for key, facts in file_system(root).find(object_key(root), detail=True).items():
        yield key.rpartition("/")[2], True, facts["size"]


def _entries(folder: str) -> Iterator[tuple[str, bool, int]]:
    """Name, file or not, and size of all entries below a folder; skips those that vanish meanwhile."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield entry.name, False, 0
            yield from _entries(entry.path)
            continue
        try:
            yield entry.name, True, entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
