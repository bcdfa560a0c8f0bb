"""The commands that look after an installation and a store: doctor, watch, prune."""

from pathlib import Path

import click

from flows.settings.defaults import LEFTOVER_HOURS
from flows.settings.options import CommandWithExamples, store_option


@click.command(cls=CommandWithExamples, epilog="medsam3 doctor\nmedsam3 doctor --store /data/store")
@store_option
def doctor(store: Path) -> int:
    """Check device, model path, cluster, Prefect, disk and the licences of the data."""
    from flows.cli.upkeep.doctor import run_doctor

    return run_doctor(store)


@click.command(cls=CommandWithExamples, epilog="medsam3 watch --once\nmedsam3 watch --store /data/store")
@click.option("--once", is_flag=True, help="Look once and stop, for cron.")
@store_option
def watch(once: bool, store: Path) -> int:
    """Follow registered weights: a new file or commit becomes a version, and starts the benchmarks that depend on it.

    Files that are still being written are left alone. What cannot be loaded, or is gone, is told once and changes
    nothing. Benchmarks are started by the Prefect server that PREFECT_API_URL names (make server). Which weights are
    watched, how often, and who is told stands in medsam3.toml. Exit code 1: files are gone or cannot be loaded.
    """
    from flows.cli.upkeep.watch import run_watch

    return run_watch(store, once=once)


@click.command(
    cls=CommandWithExamples,
    epilog="""medsam3 prune
    medsam3 prune --dry-run
    medsam3 prune --encodings 20GB --older-than 0.1""",
)
@click.option("--encodings", metavar="SIZE", help="Trim the cache of slice encodings to it.  [default: settings]")
@click.option(
    "--older-than",
    metavar="HOURS",
    type=click.FloatRange(min=0),
    help="Scratch files of this age are leftovers; 0 only while nothing runs.  "
    f"[default: settings, else {LEFTOVER_HOURS:g}]",
)
@click.option("--dry-run", is_flag=True, help="Say what would go and keep it.")
@store_option
def prune(encodings: str | None, older_than: float | None, dry_run: bool, store: Path) -> int:
    """Remove what nobody needs: leftovers of killed processes, replaced score files, encodings beyond a size.

    No score, prediction, prompt or volume is touched.
    """
    from flows.cli.upkeep.prune import run_prune

    return run_prune(store, encodings, older_than, dry_run=dry_run)
