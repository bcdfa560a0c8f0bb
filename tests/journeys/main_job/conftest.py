"""Fixtures of the main job, all real: a Prefect server, the command line in its own process, Dask worker processes.

| fixture | what it is |
|---|---|
| `prefect_server` | one server for the session, on loopback, with its own database |
| `medsam3` | runs the command line against a store and returns the finished process |
| `started` | starts the command line and returns the running process |
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from storage.catalog.guard import run_sql
from storage.store.layout import StoreLayout
from tests.server_processes import free_port, server_process

HANG_LIMIT_SECONDS = 300


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "ERROR",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    api = f"http://127.0.0.1:{port}/api"
    with server_process(command, f"{api}/health", home / "server.log", environment):
        yield {**environment, "PREFECT_API_URL": api}


Started = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def started(prefect_server: dict[str, str], tmp_path: Path) -> Iterator[Started]:
    running = []
    # A shell that starts pytest in the background ignores SIGINT for it and for all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def start(*arguments: str, store: Path, own_server: bool = False, **variables: str) -> subprocess.Popen[str]:
        environment = {**prefect_server, "MEDSAM3_STORE": str(store), **variables}
        if own_server:
            environment |= {"PREFECT_HOME": str(tmp_path / "prefect")}
            del environment["PREFECT_API_URL"]
        process = subprocess.Popen(
            [sys.executable, "-m", "flows", *arguments],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


Medsam3 = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def medsam3(prefect_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Medsam3:
    folder = tmp_path_factory.mktemp("elsewhere")

    def run(*arguments: str, store: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        finished = subprocess.run(
            [sys.executable, "-m", "flows", *arguments],
            env={**prefect_server, "MEDSAM3_STORE": str(store)},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=HANG_LIMIT_SECONDS,
            check=False,
        )
        assert finished.returncode == code, f"exit code {finished.returncode}\n{finished.stdout}\n{finished.stderr}"
        return finished

    return run


def rows(store: Path, query: str) -> list[dict[str, object]]:
    """Answer of the catalog as plain rows."""
    return run_sql(StoreLayout(store), query).to_pylist()


def cursed(**files: str) -> dict[str, str]:
    """Environment in which reading a file kills the process (`kill`) or asks for all memory (`eat`), by file name."""
    path = [str(Path(__file__).with_name("cursed")), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path), "CURSED_FILES": ":".join(f"{k}={v}" for k, v in files.items())}


def worker_processes(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Dask worker processes of a running command, oldest first."""
    workers = []
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    for child in children:
        with suppress(psutil.NoSuchProcess):  # ended meanwhile, or not yet fetched by its parent
            words = " ".join(child.cmdline())
            forked = (
                "multiprocessing.forkserver" in words and child.ppid() != process.pid
            )  # not what they are forked from
            if forked or "multiprocessing.spawn" in words:
                workers.append(child)
    return sorted(workers, key=lambda child: child.create_time())


def wait_until(condition: Callable[[], bool], what: str, seconds: float = HANG_LIMIT_SECONDS) -> None:
    """Poll a condition; fails with what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s for: {what}")
        time.sleep(0.05)


def copy_of(store: Path, target: Path) -> Path:
    """A store of one's own, for tests that change it."""
    shutil.copytree(store, target)
    return target
