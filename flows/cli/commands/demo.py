"""The command demo."""

from pathlib import Path

import click

from flows.settings.options import CommandWithExamples


@click.command(cls=CommandWithExamples, epilog="medsam3 demo\nmedsam3 demo --store /data/demo-store")
@click.option("--store", type=click.Path(path_type=Path), default=Path(".store-demo"), show_default=True)
@click.option("--cases", type=click.IntRange(min=4), default=10, show_default=True, help="Phantom cases per cohort.")
def demo(store: Path, cases: int) -> int:
    """Run the main job on embedded phantoms and weights: ingest, benchmark, leaderboard."""
    from flows.cli.work.demo import run_demo

    return run_demo(store, cases)
