"""The command demo."""

import sys
from pathlib import Path

import click

from flows.settings.options import CommandWithExamples


@click.command(cls=CommandWithExamples, epilog="medsam3 demo\nmedsam3 demo --store /data/demo-store")
@click.option("--store", type=click.Path(path_type=Path), default=Path(".store-demo"), show_default=True)
@click.option("--cases", type=click.IntRange(min=4), default=10, show_default=True, help="Phantom cases per cohort.")
def demo(store: Path, cases: int) -> None:
    """Run the main job on embedded phantoms and weights: ingest, benchmark, leaderboard."""
    from flows.clusters.forking import begin_forking
    from flows.settings.clusters import parse_cluster

    begin_forking(parse_cluster("local"), [], model=True)  # it imports beside the imports that follow

    from flows.cli.work.demo import run_demo

    sys.exit(run_demo(store, cases))
