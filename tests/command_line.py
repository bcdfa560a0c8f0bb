"""The real command line in this process: exit code, stdout and stderr, without the seconds that a new Python takes."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.cli import entry


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


Medsam3 = Callable[..., Finished]


def command_line(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Medsam3:
    """A function that runs `medsam3` on a store and asserts its exit code."""

    def run(*words: object, code: int = 0) -> Finished:
        monkeypatch.setenv("MEDSAM3_STORE", str(store))
        monkeypatch.setattr(sys, "argv", ["medsam3", *map(str, words)])
        capsys.readouterr()
        ended = entry._run()
        captured = capsys.readouterr()
        assert ended == code, f"exit code {ended}\n{captured.out}\n{captured.err}"
        return Finished(ended, captured.out, captured.err)

    return run
