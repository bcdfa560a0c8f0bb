"""Queries of `medsam3 status`: cases by cohort and split, and progress of runs."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from storage.catalog.catalog import connect
from storage.store.layout import StoreLayout

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


class SplitCount(NamedTuple):
    """Accepted and rejected cases of one split of a cohort; `split` is "" without splits."""

    cohort: str
    split: str
    accepted: int
    rejected: int


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


def counted_cases(store: StoreLayout) -> tuple[list[SplitCount], tuple[RunStatus, ...]]:
    """Splits of all cohorts, and runs by cohort and last activity, from one snapshot.

    Raises:
        StoreError: If a table is not of this version; names it.
    """
    with connect(store, _COHORTS_SQL + _RUNS_SQL) as con:
        splits = [SplitCount(*row) for row in con.execute(_COHORTS_SQL).fetchall()]
        return splits, tuple(RunStatus(*row) for row in con.execute(_RUNS_SQL).fetchall())
