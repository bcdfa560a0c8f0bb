"""The command line `medsam3`: the group of all commands, which import heavy modules only when called.

Exit codes: 0 done, 1 done but some cases failed, 2 wrong usage or input, 3 regression found, 130 interrupted.
"""

import os
import sys

import click

from flows.cli.commands.answers import RESULT_COMMANDS
from flows.cli.commands.benchmark import benchmark, demo
from flows.cli.commands.ingest import ingest
from flows.cli.commands.predict import predict, segment
from flows.cli.commands.train import train
from flows.cli.commands.upkeep import doctor, prune, watch
from flows.cli.commands.weights import weights
from flows.settings.environment import prepare_environment
from flows.settings.options import INTERRUPTED, WRONG_USAGE
from flows.settings.python_internals import run_exit_functions
from medsam3_core.errors import Medsam3Error

prepare_environment()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="medsam3")
def cli() -> None:
    """Segment and benchmark cohorts of medical images with SAM3 and Medical-SAM3."""


for command in (
    *(demo, doctor, ingest, benchmark, predict, segment, weights, train, watch, prune),
    *RESULT_COMMANDS,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; our own errors are one line on stderr, without a traceback."""
    _leave(_run())


def _run() -> int:
    try:
        code = cli(standalone_mode=False)
    except SystemExit as leaving:
        code = leaving.code
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _say("interrupted; finished results are kept, run the same command again to continue", INTERRUPTED)
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

    Dask and Prefect keep daemon threads. With them, interpreter shutdown takes seconds, and DuckDB's bindings print a
    hundred lines about leaked objects.
    """
    run_exit_functions()  # stops Prefect's own server, closes clusters, flushes logs
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
