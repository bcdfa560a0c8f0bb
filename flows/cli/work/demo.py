"""`medsam3 demo`: ingest and benchmark on built-in data and weights."""

from pathlib import Path

from flows.clusters.forking import begin_forking
from flows.messages.console import say
from flows.settings.clusters import parse_cluster
from storage.ingest.plan import IngestRequest
from storage.runs.requests import BenchmarkRequest
from storage.store.layout import StoreLayout

KINDS = ("fundus", "ct")
BASELINES, WEIGHTS = ("baseline:box", "baseline:otsu"), ("tiny-base", "tiny-medical")
BOXES = ("box", "box:jitter=0.1")
SETTINGS = ("merge=semantic",)
"""The small weights have better semantic masks than instance masks."""


def run_demo(store: Path, cases: int) -> int:
    """Ingest a 2D and a 3D cohort, benchmark baselines and small SAM3, suggest next commands.

    Running it again computes nothing and prints the same leaderboard.

    Args:
        store: Folder of the store; created if absent.
        cases: Number of phantom cases per cohort, part of its name; the last quarter is the test split.

    Returns:
        Exit code: 0, or 1 if a case failed.
    """
    cluster = parse_cluster("local")
    begin_forking(cluster, [], model=True)  # it imports in parallel with the imports below

    from flows.cli.work.benchmark import run_benchmark
    from flows.clusters.clusters import workers_starting
    from flows.ingest import ingest_cohort
    from flows.messages.tables import stdout_console
    from flows.service.session import prefect_session

    cohorts = {f"demo-{kind}-{cases}": f"phantom:{kind},cases={cases}" for kind in KINDS}
    with workers_starting(cluster, []), prefect_session():
        for cohort, source in cohorts.items():
            summary = ingest_cohort(IngestRequest(source, cohort), str(store))
            say(f"cohort {cohort}: {summary.accepted} cases converted, {summary.unchanged} already in the store")
        code = run_benchmark(
            store,
            BenchmarkRequest(tuple(cohorts), BASELINES, BOXES),
            BenchmarkRequest(tuple(cohorts), WEIGHTS, ("text", *BOXES), SETTINGS),
            cluster="local",
        )
    for line in closing_lines(StoreLayout(store)):
        stdout_console().print(line, soft_wrap=True)
    return code


def closing_lines(store: StoreLayout) -> list[str]:
    """Location of the results, and commands to try next."""
    option = f"--store {store.root}"
    lines = ["", f"catalog: {store.catalog().resolve()}"]
    report = store.root / "report.html"
    if report.is_file():
        lines.append(f"report:  {report.resolve()}")
    else:
        lines.append(f"report:  medsam3 report {option} --out {report}")
    best = "SELECT cohort, structure, weights, prompt, dice_mean FROM leaderboard ORDER BY dice_mean DESC LIMIT 10"
    worst = "SELECT case_id, structure, weights, dice, hd95 FROM scores WHERE dice IS NOT NULL ORDER BY dice LIMIT 10"
    return [*lines, "", "next:", *(f'  medsam3 sql {option} "{query}"' for query in (best, worst))]
