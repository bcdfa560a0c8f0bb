"""What `medsam3 benchmark` says and returns around the flow."""

from pathlib import Path

from flows.console import say
from storage.encoding_cache import parse_size
from storage.run_planning import BenchmarkPlan, BenchmarkRequest, plan_benchmark
from storage.store_layout import existing_store, open_store


def show_plan(root: Path, request: BenchmarkRequest) -> int:
    """Say what would be computed; exit code 0."""
    plan = plan_benchmark(existing_store(root), request)
    _say_refused(plan)
    for line in plan_lines(plan):
        print(line)  # noqa: T201 - the plan is the answer
    return 0


def plan_lines(plan: BenchmarkPlan) -> list[str]:
    """One line per run: what is fresh, to segment, to score again, rejected."""
    lines = []
    for group in plan.groups:
        for run in group.runs.values():
            segment = sum(run.run_id in item.run_ids for item in group.pending)
            rescore = sum(run.run_id in item.rescore_ids for item in group.pending)
            rejected = sum(run.run_id in item.run_ids for item in group.rejected)
            lines.append(
                f"{run.run_id}  {run.cohort}  {run.weights.name}@{run.weights.version}  {run.policy.canonical()}  "
                f"segment {segment}, score again {rescore}, rejected {rejected}"
            )
    return lines


def run_benchmark(root: Path, request: BenchmarkRequest, cluster: str, cache_encodings: str = "") -> int:
    """Run the flow unless nothing is pending, print the leaderboard; exit code 0, or 1 if a case failed.

    Args:
        root: Folder of the store.
        request: What to benchmark.
        cluster: Cluster by name.
        cache_encodings: Size of the cache of slice encodings, such as `20GB`; empty for none.
    """
    if cache_encodings:
        parse_size(cache_encodings)  # refused before anything starts
    store = open_store(root)
    plan = plan_benchmark(store, request)
    _say_refused(plan)
    failed = 0
    if plan.pending:
        failed = _compute(root, request, plan, cluster, cache_encodings)
    else:
        say(f"nothing to compute: {sum(group.fresh for group in plan.groups)} case and run pairs are up to date")
    from flows.leaderboard import leaderboard_rows, print_leaderboard

    print_leaderboard(leaderboard_rows(store, plan.run_ids))
    return 1 if failed else 0


def _compute(root: Path, request: BenchmarkRequest, plan: BenchmarkPlan, cluster: str, cache_encodings: str) -> int:
    from flows.benchmark import benchmark_cohorts
    from flows.clusters import parse_cluster, workers_starting
    from flows.prefect_session import prefect_session

    weights = [group.weights for group in plan.groups if group.pending]
    with workers_starting(parse_cluster(cluster), weights), prefect_session():
        summary = benchmark_cohorts(
            str(root),
            list(request.cohorts),
            list(request.weights),
            list(request.prompts),
            list(request.settings),
            request.split,
            list(request.structures),
            request.limit,
            request.retry,
            cluster,
            cache_encodings,
        )
    counted = ", ".join(f"{count} {status}" for status, count in sorted(summary.computed.items())) or "none"
    say(f"computed {counted}; {summary.fresh} case and run pairs were up to date")
    if summary.unscored:
        say(f'{summary.unscored} case and run pairs have no score: medsam3 sql "SELECT * FROM failures"')
    return summary.unscored


def _say_refused(plan: BenchmarkPlan) -> None:
    for sentence in plan.refused:
        say(sentence)
