"""Commands that score: benchmark and demo."""

from pathlib import Path

import click

from flows.settings.options import CommandWithExamples, cluster_option, settings_option, store_option


@click.command(
    cls=CommandWithExamples,
    epilog="""medsam3 benchmark --cohort chase --weights baseline:box --weights tiny-medical --prompt box
    medsam3 benchmark --cohort chase --weights sam3 --prompt box:jitter=0.1 --set threshold=0.4 --split all
    medsam3 benchmark --cohort chase --weights sam3 --prompt text --cache-encodings 20GB
    medsam3 benchmark --cohort chase --weights sam3 --preset medical-sam3-v1
    medsam3 benchmark --cohort chase --weights sam3 --prompt text --plan
    medsam3 benchmark --plan""",
)
@click.option("--cohort", "cohorts", multiple=True, help="Cohort; repeatable.")
@click.option("--weights", "names", multiple=True, help="NAME or NAME@N; repeatable.")
@click.option("--prompt", "prompts", multiple=True, help="Prompt policy, such as text or box:jitter=0.1; repeatable.")
@click.option("--split", help="Split, or all.  [default: test if the cohort has one, else all]")
@click.option("--structure", "structures", multiple=True, help="Structure; repeatable.  [default: all]")
@settings_option
@click.option("--preset", metavar="NAME", help="Prompts and settings of a published protocol: medical-sam3-v1.")
@cluster_option()
@click.option("--limit", type=click.IntRange(min=1), help="Maximum number of cases per cohort.")
@click.option(
    "--cache-encodings",
    metavar="SIZE",
    default="",
    help="Cache slice encodings in the store, up to SIZE such as 20GB; benchmarks with other prompts reuse them.",
)
@click.option("--retry", is_flag=True, help="Retry rejected, failed and crashed cases.")
@click.option(
    "--plan", "plan_only", is_flag=True, help="Print what would be computed and the expected time, then stop."
)
@store_option
def benchmark(
    cohorts: tuple[str, ...],
    names: tuple[str, ...],
    prompts: tuple[str, ...],
    split: str | None,
    structures: tuple[str, ...],
    settings: tuple[str, ...],
    preset: str | None,
    cluster: str,
    limit: int | None,
    cache_encodings: str,
    retry: bool,
    plan_only: bool,
    store: Path,
) -> int:
    """Segment and score cohorts; only missing and stale results are computed.

    Options left out of --cohort, --weights and --prompt are taken from earlier benchmarks. Without any of the three,
    all results are updated that are stale because of newer weights, new cases or a new protocol.
    """
    from flows.cli.work.benchmark import run_benchmark, show_plan
    from medsam3_core.settings.presets import apply_preset
    from storage.runs.requests import BenchmarkRequest

    if preset:
        prompts, settings = apply_preset(preset, prompts, settings)
    request = BenchmarkRequest(cohorts, names, prompts, settings, split, structures, limit or 0, retry)
    if plan_only:
        return show_plan(store, request, cluster)
    return run_benchmark(store, request, cluster=cluster, cache_encodings=cache_encodings)


@click.command(cls=CommandWithExamples, epilog="medsam3 demo\nmedsam3 demo --store /data/demo-store")
@click.option("--store", type=click.Path(path_type=Path), default=Path(".store-demo"), show_default=True)
@click.option(
    "--cases", type=click.IntRange(min=4), default=10, show_default=True, help="Number of phantom cases per cohort."
)
def demo(store: Path, cases: int) -> int:
    """Run ingest, benchmark and leaderboard on built-in phantoms and small weights."""
    from flows.cli.work.demo import run_demo

    return run_demo(store, cases)
