"""The command that scores: benchmark, or with --plan what it would compute."""

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
@click.option("--cohort", "cohorts", multiple=True, help="Cohort; repeat for several.")
@click.option("--weights", "names", multiple=True, help="NAME or NAME@N; repeat for several.")
@click.option("--prompt", "prompts", multiple=True, help="Policy, such as text or box:jitter=0.1.")
@click.option("--split", help="Split, or all.  [default: test where the cohort has one, else all]")
@click.option("--structure", "structures", multiple=True, help="Structure; repeat for several.  [default: all]")
@settings_option
@click.option("--preset", metavar="NAME", help="Prompts and settings of a published protocol: medical-sam3-v1.")
@cluster_option()
@click.option("--limit", type=click.IntRange(min=1), help="At most so many cases per cohort.")
@click.option(
    "--cache-encodings",
    metavar="SIZE",
    default="",
    help="Keep encodings of slices in the store, such as 20GB: later benchmarks with other prompts skip the encoder.",
)
@click.option("--retry", is_flag=True, help="Try rejected, failed and crashed cases again.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what would be computed, and how long it takes, and stop.")
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
    """Segment and score cohorts; only what is not in the store yet is computed.

    What is left out of --cohort, --weights and --prompt is taken from what was benchmarked before: without any of them
    everything is brought up to date that newer weights, new cases or a new protocol have made stale.
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
