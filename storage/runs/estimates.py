"""Estimates of the duration of a plan, from the durations of past cases.

Of a pass over the slices that served several runs, each run counts its share. The nearest past cases are taken: of the
same weights (any version), cohort and prompt policy; else of the same weights and cohort; else of the same weights.
Estimates are compute time of one worker; the caller divides them by the number of workers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from storage.catalog.queries.runs import Experience, Pace, past_paces
from storage.runs.ledger import Run
from storage.runs.plan import BenchmarkPlan
from storage.store.layout import StoreLayout


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated time of one run of a plan on one worker.

    Attributes:
        seconds: Seconds; None if these weights have never run.
        cases: Number of past cases that it is based on.
    """

    seconds: float | None
    cases: int


def estimate_plan(store: StoreLayout, plan: BenchmarkPlan) -> dict[str, Estimate]:
    """Estimates by run id, of all runs of a plan."""
    paces = past_paces(store)
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


def _estimate(paces: Mapping[Experience, Pace], run: Run, segment: int, rescore: int) -> Estimate:
    if not segment and not rescore:
        return Estimate(0.0, 0)
    name, cohort, prompt = run.weights.name, run.cohort, run.policy.canonical()
    nearest: tuple[Experience, ...] = ((name, cohort, prompt), (name, cohort, None), (name, None, None))
    for key in nearest:
        if key in paces:
            pace = paces[key]
            return Estimate(segment * pace.seconds + rescore * pace.seconds_again, pace.cases)
    return Estimate(None, 0)
