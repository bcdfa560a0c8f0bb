"""`medsam3 benchmark`: plan, run the flow, print the leaderboard."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from flows.clusters.forking import begin_forking
from flows.messages.console import say
from flows.messages.formatting import format_counts, format_duration
from flows.service.prepared import nothing_to_compute, planned_benchmark
from flows.settings.agent import with_site_model
from flows.settings.settings import named_cluster
from storage.runs.estimates import Estimate, estimate_plan, total_seconds
from storage.runs.plan import BenchmarkPlan, pending
from storage.runs.requests import BenchmarkRequest, runs_of
from storage.runs.standing import completed_requests
from storage.store.layout import existing_store, open_store
from storage.weights.encodings import parse_size


def show_plan(root: Path, request: BenchmarkRequest, cluster: str) -> int:
    """Print what would be computed and the time estimated from earlier cases; exit code 0."""
    from flows.clusters.kinds import worker_count

    store = existing_store(root)
    settings = with_site_model(root, request.prompts, request.settings)
    plan = pending(store, runs_of(store, completed_requests(store, replace(request, settings=settings))))
    _say_refused(plan)
    estimates = estimate_plan(store, plan)
    for line in plan_lines(plan, estimates):
        print(line)  # noqa: T201 - the plan is the answer
    workers = worker_count(named_cluster(cluster, root), [group.weights for group in plan.groups])
    print(_total_line(plan, estimates, workers))  # noqa: T201
    return 0


def plan_lines(plan: BenchmarkPlan, estimates: Mapping[str, Estimate]) -> list[str]:
    """One line per run: cases to segment, to score again and rejected, and the time on one worker."""
    lines = []
    for group in plan.groups:
        for run in group.runs.values():
            segment = sum(run.run_id in item.run_ids for item in group.pending)
            rescore = sum(run.run_id in item.rescore_ids for item in group.pending)
            rejected = sum(run.run_id in item.run_ids for item in group.rejected)
            asked = " ".join(part for part in (run.policy.canonical(), run.settings.canonical()) if part != "default")
            lines.append(
                f"{run.run_id}  {run.cohort}  {run.weights.name}@{run.weights.version}  {asked}  "
                f"segment {segment}, score again {rescore}, rejected {rejected}{_time_of(estimates[run.run_id])}"
            )
    return lines


def _time_of(estimate: Estimate) -> str:
    if estimate.seconds is None:
        return "; no earlier cases to estimate from"
    return (
        f"; about {format_duration(estimate.seconds)} (from {estimate.cases} earlier cases)" if estimate.cases else ""
    )


def _total_line(plan: BenchmarkPlan, estimates: Mapping[str, Estimate], workers: int) -> str:
    stale = sum(len(item.run_ids) + len(item.rescore_ids) for group in plan.groups for item in group.pending)
    counted = f"{stale} results are stale, {plan.fresh} are up to date"
    seconds = total_seconds(estimates)
    if not stale:
        return f"nothing to compute: {counted}"
    if seconds is None:
        return f"{counted}; the time is unknown, because some of these weights have not been run"
    return f"{counted}; about {format_duration(seconds / workers)} on {workers} worker{'s' if workers > 1 else ''}"


def run_benchmark(root: Path, *requests: BenchmarkRequest, cluster: str, cache_encodings: str = "") -> int:
    """Run the flow for each request with pending cases and print one leaderboard; exit code 0, or 1 if a case failed.

    Args:
        root: Folder of the store.
        *requests: Benchmarks to run.
        cluster: Cluster by name.
        cache_encodings: Size of the cache of slice encodings, such as `20GB`; empty for none.
    """
    if cache_encodings:
        parse_size(cache_encodings)  # fail before anything starts
    for request in requests:
        with_site_model(root, request.prompts, request.settings)  # fail before the store is created
    store = open_store(root)
    failed, run_ids = 0, list[str]()
    for request in requests:
        with planned_benchmark(store, request) as planned:
            _say_refused(planned.plan)
            if (answer := nothing_to_compute(planned.plan)) is not None:
                say(answer)
            else:
                failed += _compute(root, request, planned.plan, cluster, cache_encodings)
            run_ids += planned.plan.run_ids
    from flows.cli.answers.leaderboard import inter_rater_rows, leaderboard_rows, print_leaderboard

    print_leaderboard(leaderboard_rows(store, run_ids), inter_rater=inter_rater_rows(store))
    return 1 if failed else 0


def _compute(root: Path, request: BenchmarkRequest, plan: BenchmarkPlan, cluster: str, cache_encodings: str) -> int:
    weights = [group.weights for group in plan.groups if group.pending]
    settings = named_cluster(cluster, root)
    begin_forking(settings, weights)  # it imports in parallel with the imports below

    from flows.benchmark import benchmark_cohorts
    from flows.clusters.clusters import workers_starting
    from flows.service.session import prefect_session

    with workers_starting(settings, weights), prefect_session():
        summary = benchmark_cohorts(request, str(root), cluster, cache_encodings)
    say(f"computed {format_counts(summary.computed) or 'none'}; {summary.fresh} results were up to date")
    if summary.unscored:
        say(f'{summary.unscored} results have no score: medsam3 sql "SELECT * FROM failures"')
    return summary.unscored


def _say_refused(plan: BenchmarkPlan) -> None:
    for sentence in plan.refused:
        say(sentence)
