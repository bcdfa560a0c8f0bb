"""What a store holds: cohorts, runs with what is done and pending, disk use, leftovers of killed processes."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from storage.catalog.catalog import connect
from storage.catalog.relations import cohort_names
from storage.cohorts.cohorts import read_cohort
from storage.store.atomic import TEMPORARY_PREFIX
from storage.store.layout import StoreLayout
from storage.store.locations import file_system, is_remote, object_key

_COHORTS_SQL = """
SELECT cohort, coalesce(split, '') AS split, count(*) FILTER (status = 'accepted') AS accepted,
    count(*) FILTER (status = 'rejected') AS rejected
FROM cases GROUP BY ALL ORDER BY ALL"""

_RUNS_SQL = """
WITH planned AS (SELECT DISTINCT run_id, case_id FROM plan),
ended AS (
    SELECT run_id, case_id,
        CASE WHEN bool_or(status <> 'scored') THEN 'failed' ELSE 'scored' END AS status
    FROM scores GROUP BY run_id, case_id
    UNION ALL
    SELECT o.run_id, o.case_id, CASE WHEN o.status = 'segmented' THEN 'scored' ELSE 'failed' END
    FROM internal.current_attempts AS o
    SEMI JOIN (SELECT run_id FROM plan GROUP BY run_id HAVING count(rater) = 0) AS m ON m.run_id = o.run_id
),
activity AS (SELECT run_id, max(finished_at) AS last_activity FROM outcomes GROUP BY run_id)
SELECT r.run_id, r.cohort, r.weights, r.weights_version, r.prompt, r.settings, count(p.case_id) AS planned,
    count(*) FILTER (e.status = 'scored') AS scored, count(*) FILTER (e.status = 'failed') AS failed,
    count(p.case_id) - count(e.case_id) AS pending, coalesce(any_value(a.last_activity), r.created_at) AS last_activity
FROM runs AS r
LEFT JOIN planned AS p ON p.run_id = r.run_id
LEFT JOIN ended AS e ON e.run_id = p.run_id AND e.case_id = p.case_id
LEFT JOIN activity AS a ON a.run_id = r.run_id
GROUP BY r.run_id, r.cohort, r.weights, r.weights_version, r.prompt, r.settings, r.created_at
ORDER BY r.cohort, last_activity"""


@dataclass(frozen=True, slots=True)
class CohortStatus:
    """One cohort: cases by how ingest ended, per split ("" without splits), and the licence of its data."""

    name: str
    accepted: int
    rejected: int
    splits: dict[str, int]
    licence: str


@dataclass(frozen=True, slots=True)
class RunStatus:
    """One run, counted in cases: planned = scored (or segmented, in a run without references) + failed + pending."""

    run_id: str
    cohort: str
    weights: str
    weights_version: int
    prompt: str
    settings: str
    planned: int
    scored: int
    failed: int
    pending: int
    last_activity: datetime | None


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """What a store holds.

    Attributes:
        cohorts: Cohorts by name.
        runs: Runs by cohort and last activity.
        files: Files in the store.
        size_bytes: Their size.
        leftovers: Scratch files and folders that a killed process left, or that one is writing now.
    """

    cohorts: tuple[CohortStatus, ...]
    runs: tuple[RunStatus, ...]
    files: int
    size_bytes: int
    leftovers: int


def read_status(store: StoreLayout) -> StoreStatus:
    """Look at tables and files of a store; writes nothing.

    Raises:
        StoreError: If a table is not of this version; names it.
    """
    with connect(store, _COHORTS_SQL + _RUNS_SQL) as connection:
        splits = connection.execute(_COHORTS_SQL).fetchall()
        runs = tuple(RunStatus(*row) for row in connection.execute(_RUNS_SQL).fetchall())
    cohorts = tuple(_cohort(store, name, splits) for name in cohort_names(store) if store.cohort_json(name).exists())
    files = size = leftovers = 0
    for name, is_file, number in _objects(store.root) if is_remote(store.root) else _entries(str(store.root)):
        files, size = files + is_file, size + number
        leftovers += name.startswith(TEMPORARY_PREFIX)
    return StoreStatus(cohorts, runs, files, size, leftovers)


def _cohort(store: StoreLayout, name: str, rows: list[tuple[Any, ...]]) -> CohortStatus:
    own = [row for row in rows if row[0] == name]
    return CohortStatus(
        name,
        sum(row[2] for row in own),
        sum(row[3] for row in own),
        {row[1]: row[2] + row[3] for row in own},
        read_cohort(store, name).recipe.licence,
    )


def _objects(root: Path) -> Iterator[tuple[str, bool, int]]:
    for key, facts in file_system(root).find(object_key(root), detail=True).items():
        yield key.rpartition("/")[2], True, facts["size"]


def _entries(folder: str) -> Iterator[tuple[str, bool, int]]:
    """Name, whether it is a file, and size of all below a folder; what vanishes meanwhile is left out."""
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
