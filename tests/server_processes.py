"""Servers that tests start as processes of their own: a free port, the server until it answers, its end."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

_START_SECONDS = 120


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server_process(
    command: Sequence[str],
    url: str,
    log: Path,
    environment: Mapping[str, str] = os.environ,
    end: signal.Signals = signal.SIGTERM,
) -> Iterator[None]:
    """A server for the length of a block, in a process group of its own, which ends with it.

    Args:
        command: What starts it.
        url: Page that it answers once it is ready; an error page is an answer.
        log: File for its output.
        environment: All its variables.
        end: Signal that ends it and what it started.
    """
    with log.open("w") as sink:
        server = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, start_new_session=True)
    try:
        _wait_for(url, server, log)
        yield
    finally:
        if server.poll() is None:
            os.killpg(server.pid, end)
        server.wait(timeout=30)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"{server.args} ended with code {server.returncode} while it started:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"{url} did not answer within {_START_SECONDS} s:\n{log.read_text()}")
