"""How long a plan will take, from how long cases took before.

A case that served several runs in one pass over its slices counts with its share of the pass. Nearest experience first:
the same weights (any version), cohort and prompt policy; then the same weights and cohort; then the same weights.
Estimates are compute time of one worker; what a cluster makes of it is the caller's division.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from storage.catalog.catalog import connect
from storage.runs.ledger import Run
from storage.runs.plan import BenchmarkPlan
from storage.store.layout import StoreLayout

_SHARES_SQL = """
WITH passes AS (
    SELECT attempt, case_id, count(*) AS runs,
        max(seconds_read + seconds_prompt + seconds_segment + seconds_score + seconds_write) AS seconds,
        max(seconds_read + seconds_score) AS seconds_again
    FROM outcomes WHERE status IN ('scored', 'segmented') GROUP BY attempt, case_id
),
shares AS (
    SELECT r.weights, r.cohort, r.prompt, p.seconds / p.runs AS seconds, p.seconds_again / p.runs AS seconds_again
    FROM passes AS p JOIN outcomes AS o ON o.attempt = p.attempt AND o.case_id = p.case_id
    JOIN runs AS r ON r.run_id = o.run_id
)
SELECT weights, cohort, prompt, count(*), avg(seconds), avg(seconds_again) FROM shares
GROUP BY GROUPING SETS ((weights, cohort, prompt), (weights, cohort), (weights))"""


@dataclass(frozen=True, slots=True)
class _Pace:
    cases: int
    seconds: float
    seconds_again: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time that one run of a plan will take on one worker.

    Attributes:
        seconds: Seconds; None where these weights have never run.
        cases: Number of past cases that it rests on.
    """

    seconds: float | None
    cases: int


def estimate_plan(store: StoreLayout, plan: BenchmarkPlan) -> dict[str, Estimate]:
    """Estimates by run id, of all runs of a plan that have something to do."""
    with connect(store, _SHARES_SQL) as con:
        rows = con.execute(_SHARES_SQL).fetchall()
    paces = {(weights, cohort, prompt): _Pace(*numbers) for weights, cohort, prompt, *numbers in rows}
    return {
        run.run_id: _estimate(
            paces,
            run,
            sum(run.run_id in item.run_ids for item in group.pending),
            sum(run.run_id in item.rescore_ids for item in group.pending),
        )
        for group in plan.groups
        for run in group.runs.values()
    }


def total_seconds(estimates: Mapping[str, Estimate]) -> float | None:
    """Sum over the runs; None if one of them is unknown."""
    known = [item.seconds for item in estimates.values() if item.seconds is not None]
    return sum(known) if len(known) == len(estimates) else None


def _estimate(
    paces: Mapping[tuple[str, str | None, str | None], _Pace], run: Run, segment: int, rescore: int
) -> Estimate:
    if not segment and not rescore:
        return Estimate(0.0, 0)
    name, cohort, prompt = run.weights.name, run.cohort, run.policy.canonical()
    nearest: tuple[tuple[str, str | None, str | None], ...]
    nearest = ((name, cohort, prompt), (name, cohort, None), (name, None, None))
    for key in nearest:
        if key in paces:
            pace = paces[key]
            return Estimate(segment * pace.seconds + rescore * pace.seconds_again, pace.cases)
    return Estimate(None, 0)
