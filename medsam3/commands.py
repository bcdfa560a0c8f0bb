"""Commands as processes of their own: Prefect, Dask and their threads stay out of the process that calls."""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from medsam3_core.errors import Medsam3Error, UsageError

_DONE, _SOME_CASES_FAILED, _WRONG_USAGE = 0, 1, 2


def run_command(store: Path, name: str, words: Sequence[str]) -> None:
    """Run `medsam3 NAME` on a store, with its messages on stderr; cases that failed are rows of the store, no error.

    Raises:
        UsageError: If the command refuses its input; the message is the command's own.
        Medsam3Error: If it ends otherwise.
    """
    command = [sys.executable, "-P", "-m", "flows", name, *words, "--store", str(store)]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            last = line.strip() or last
    if process.returncode == _WRONG_USAGE:
        raise UsageError(last.removeprefix("medsam3: "))
    if process.returncode not in (_DONE, _SOME_CASES_FAILED):
        msg = f"medsam3 {name} ended with code {process.returncode}: {last}"
        raise Medsam3Error(msg)


def options(name: str, values: Iterable[object]) -> list[str]:
    """`--name VALUE` for each value that is given."""
    return [word for value in values if value not in (None, "", 0) for word in (f"--{name}", str(value))]
