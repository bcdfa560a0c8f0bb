"""Commands that maintain an installation and a store: doctor, watch, prune."""

from pathlib import Path

import click

from flows.settings.defaults import LEFTOVER_HOURS
from flows.settings.options import CommandWithExamples, store_option


@click.command(cls=CommandWithExamples, epilog="medsam3 doctor\nmedsam3 doctor --store /data/store")
@store_option
def doctor(store: Path) -> int:
    """Check device, packages, SAM3, weights, cluster, Prefect, disk and data licences."""
    from flows.cli.upkeep.doctor import run_doctor

    return run_doctor(store)


@click.command(cls=CommandWithExamples, epilog="medsam3 watch --once\nmedsam3 watch --store /data/store")
@click.option("--once", is_flag=True, help="Check once and stop, for cron.")
@store_option
def watch(once: bool, store: Path) -> int:
    """Watch registered weights: a new file or commit becomes a version and starts the benchmarks that depend on it.

    Files that are still being written are skipped. Missing or unloadable files are reported once and change nothing.
    The Prefect server at PREFECT_API_URL starts the benchmarks (make server). medsam3.toml configures the watched
    weights, the interval and the notifications. Exit code 1: files are missing or cannot be loaded.
    """
    from flows.cli.upkeep.watch import run_watch

    return run_watch(store, once=once)


@click.command(
    cls=CommandWithExamples,
    epilog="""medsam3 prune
    medsam3 prune --dry-run
    medsam3 prune --encodings 20GB --older-than 0.1""",
)
@click.option("--encodings", metavar="SIZE", help="Trim the cache of slice encodings to SIZE.  [default: settings]")
@click.option(
    "--older-than",
    metavar="HOURS",
    type=click.FloatRange(min=0),
    help="Minimum age of removed scratch files; use 0 only while nothing runs.  "
    f"[default: settings, else {LEFTOVER_HOURS:g}]",
)
@click.option("--dry-run", is_flag=True, help="Report what would be removed, and remove nothing.")
@store_option
def prune(encodings: str | None, older_than: float | None, dry_run: bool, store: Path) -> int:
    """Remove leftovers of killed processes, replaced score files and encodings beyond a size.

    Scores, predictions, prompts and volumes are kept.
    """
    from flows.cli.upkeep.prune import run_prune

    return run_prune(store, encodings, older_than, dry_run=dry_run)
