"""The command line `medsam3`: one function per command, here and in `cli_*`; what is heavy, its command imports.

Exit codes: 0 done, 1 done but some cases failed, 2 wrong usage or input, 3 regression found, 130 interrupted.
"""

import atexit
import os
import sys
from pathlib import Path

import click

from flows.cli_benchmark import benchmark
from flows.cli_options import FAILED_CASES, INTERRUPTED, WRONG_USAGE, CommandWithExamples, store_option
from flows.cli_predict import predict, segment
from flows.cli_results import RESULT_COMMANDS
from flows.cli_train import train
from flows.cli_upkeep import prune, watch
from flows.cli_weights import weights
from flows.environment import prepare_environment
from medsam3_core.errors import Medsam3Error

prepare_environment()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="medsam3")
def cli() -> None:
    """Segment and benchmark medical images with SAM3 and Medical-SAM3, by the cohort."""


@cli.command(cls=CommandWithExamples, epilog="medsam3 demo\nmedsam3 demo --store /data/demo-store")
@click.option("--store", type=click.Path(path_type=Path), default=Path(".store-demo"), show_default=True)
@click.option("--cases", type=click.IntRange(min=4), default=10, show_default=True, help="Phantom cases per cohort.")
def demo(store: Path, cases: int) -> None:
    """Run the main job on embedded phantoms and weights: ingest, benchmark, leaderboard."""
    from flows.cluster_settings import parse_cluster
    from flows.worker_forking import begin_forking

    begin_forking(parse_cluster("local"), [], model=True)  # it imports beside the imports that follow

    from flows.demo import run_demo

    sys.exit(run_demo(store, cases))


@cli.command(cls=CommandWithExamples, epilog="medsam3 doctor\nmedsam3 doctor --store /data/store")
@store_option
def doctor(store: Path) -> None:
    """Check device, model path, cluster, Prefect, disk and the licences of the data."""
    from flows.doctor import examine

    sys.exit(examine(store))


@cli.command(
    cls=CommandWithExamples,
    epilog="""medsam3 ingest data/CHASE_DB1 --cohort chase
    medsam3 ingest data/Task04_Hippocampus --cohort hippocampus --limit 20
    medsam3 ingest data/tn3k --check
    medsam3 ingest data/tn3k --reader tn3k --check --format json
    medsam3 ingest phantom:ct,cases=12 --cohort phantom-ct""",
)
@click.argument("source")
@click.option("--cohort", help="Name of the cohort in the store.")
@click.option("--reader", default="auto", show_default=True, help="Recipe or layout by name.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Recipe file (YAML).")
@click.option("--split", help="Split of all cases, against the recipe's own rule.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many cases.")
@click.option("--cluster", default="local", show_default=True, help="Cluster by name.")
@click.option("--check", is_flag=True, help="Read everything, write nothing, say what is wrong or suspicious.")
@click.option("--format", "output", type=click.Choice(["table", "json"]), help="Answer of --check.  [default: table]")
@store_option
def ingest(
    source: str,
    cohort: str | None,
    reader: str,
    recipe: Path | None,
    split: str | None,
    limit: int | None,
    cluster: str,
    check: bool,
    output: str | None,
    store: Path,
) -> None:
    """Convert SOURCE to OME-Zarr and record every case as accepted or rejected with its reason.

    SOURCE is a folder, or a phantom: ct, mr, fundus, nuclei, ultrasound, endoscopy, dermoscopy, xray or shapes,
    written phantom:KIND.

    --check exits with 1 if it finds anything, and looks for the same images in the cohorts of the store.
    """
    if check:
        from flows.check_command import CheckWords, run_check

        sys.exit(run_check(CheckWords(source, reader, recipe, split, limit or 0, output or "table"), store))
    if cohort is None or output is not None:
        msg = "--cohort is missing" if cohort is None else "--format is for --check"
        raise click.UsageError(msg)
    from flows.settings import named_cluster
    from flows.worker_forking import begin_forking
    from storage.store_layout import open_store

    open_store(store)  # refused before anything starts
    settings = named_cluster(cluster, store)
    begin_forking(settings, [])  # it imports beside the imports that follow

    from flows.clusters import workers_starting
    from flows.console import say
    from flows.ingest import ingest_cohort
    from flows.prefect_session import prefect_session

    with workers_starting(settings, []), prefect_session():
        summary = ingest_cohort(
            str(store), source, cohort, reader, str(recipe) if recipe else None, split, limit or 0, cluster
        )
    say(
        f"cohort {summary.cohort}: {summary.accepted} accepted, {summary.rejected} rejected, "
        f"{summary.unchanged} unchanged"
    )
    if summary.rejected:
        say(f"reasons: medsam3 sql \"SELECT case_id, reason FROM failures WHERE cohort = '{summary.cohort}'\"")
    sys.exit(FAILED_CASES if summary.rejected else 0)


cli.add_command(benchmark)
cli.add_command(predict)
cli.add_command(segment)
cli.add_command(weights)
cli.add_command(train)
cli.add_command(watch)
cli.add_command(prune)
for command in RESULT_COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line; every error of ours is one line on stderr, never a traceback."""
    _leave(_run())


def _run() -> int:
    try:
        code = cli(standalone_mode=False)
    except SystemExit as leaving:
        code = leaving.code
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _say("interrupted; all that is finished is kept, run the same command again to go on", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        return WRONG_USAGE
    except Medsam3Error as error:
        return _say(str(error), WRONG_USAGE)
    return code if isinstance(code, int) else 0


def _say(message: str, code: int) -> int:
    click.echo(f"medsam3: {message}", err=True)
    return code


def _leave(code: int) -> None:
    """End the process after its exit handlers, without tearing the interpreter down.

    Dask and Prefect keep daemon threads; while they live, DuckDB's bindings print a hundred lines about leaked objects
    at interpreter shutdown, and the shutdown itself takes seconds.
    """
    atexit._run_exitfuncs()  # stops Prefect's own server, closes clusters, flushes logs
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
