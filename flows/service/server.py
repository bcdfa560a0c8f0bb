"""`make server`: Prefect server, work pool, deployments and one worker, on loopback, until Ctrl-C.

For one machine and for trying things out; docs/operations.md has the same parts as services. Each part has its own
process group, so that Ctrl-C reaches this process alone, which ends them in order: first the worker and its flow runs,
then the server.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from flows.messages.console import say
from medsam3_core.errors import Medsam3Error, UsageError

POOL = "medsam3-pool"
HOST = "127.0.0.1"
HEARTBEAT_SECONDS = 30
_START_SECONDS = 180.0
_SIGNAL_SECONDS = 10.0
_END_SECONDS = 60.0


class ServerError(Medsam3Error):
    """A part of the server did not start, or exited."""


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """Folders, port and limits of one server.

    Attributes:
        home: Folder of Prefect's database and the logs.
        store: Default store of flow runs.
        port: Port on loopback.
        checkout: Folder with `prefect.yaml`.
        poll_seconds: Interval at which the worker asks for flow runs.
        flow_runs: Maximum number of concurrent flow runs.
    """

    home: Path
    store: Path
    port: int
    checkout: Path
    poll_seconds: float = 2.0
    flow_runs: int = 4

    @property
    def url(self) -> str:
        """Value for `PREFECT_API_URL`."""
        return f"http://{HOST}:{self.port}/api"

    def environment(self) -> dict[str, str]:
        """Environment of server, worker and flow runs; user settings are kept unless they conflict."""
        quiet = {
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "INFO",
            "DASK_LOGGING__DISTRIBUTED": "error",
            # The server deletes flow runs older than half a year from its database.
            "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
            "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(180 * 24 * 3600),
        }
        from storage.store.layout import STORE_VARIABLE  # it imports fsspec, which this process never uses

        ours = {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
            "PREFECT_WORKER_QUERY_SECONDS": f"{self.poll_seconds:g}",
            # The environment of a single command switches these off; schedules and triggers need them.
            "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "true",
            "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "true",
            "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "true",
            STORE_VARIABLE: str(self.store),
        }
        return {**quiet, **os.environ, **ours}


class ServerParts:
    """The running processes, ended in order on exit."""

    def __init__(self, place: ServerPlace) -> None:
        self._place, self._stack = place, ExitStack()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "ServerParts":
        return self

    def __exit__(self, *error: object) -> None:
        for name in reversed(self._processes):
            say(f"stopping the {name}")
            _end(self._processes[name])
        self._stack.close()

    def start(self) -> None:
        """Start all parts and wait until they are ready.

        Raises:
            ServerError: If one does not start; names its log.
            UsageError: If the port is taken or `prefect.yaml` is missing.
        """
        place = self._place
        if not (place.checkout / "prefect.yaml").is_file():
            msg = f"no prefect.yaml in {place.checkout}; run this in the checkout of medsam3"
            raise UsageError(msg)
        _require_free(place.port)
        for folder in (place.home, place.store):
            folder.mkdir(parents=True, exist_ok=True)
        say(f"starting Prefect at http://{HOST}:{place.port} (database and logs in {place.home})")
        server = self._launch("server", "server", "start", "--host", HOST, "--port", str(place.port))
        self._wait_for("server", server, f"{place.url}/health")
        words = ("--pool", POOL, "--type", "process", "--limit", str(place.flow_runs))
        worker = self._launch("worker", "worker", "start", *words)  # makes the pool where there is none
        self._wait_for("worker", worker, f"{place.url}/work_pools/{POOL}")
        self._once("deploy", "--all", "--no-prompt")
        say(f"deployed all flows into {POOL}")

    def wait(self) -> None:
        """Wait until a part exits, which none should.

        Raises:
            ServerError: When one exits; names its log.
        """
        while True:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    msg = f"the {name} exited with code {process.returncode}; see {self._log(name)}"
                    raise ServerError(msg)
            time.sleep(0.5)

    def _log(self, name: str) -> Path:
        return self._place.home / f"{name}.log"

    def _launch(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context(self._log(name).open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-c", _WITH_DEFAULT_SIGNALS, *words],
            env=self._place.environment(),
            cwd=self._place.home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self._processes[name] = process
        return process

    def _once(self, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *words],
            env=self._place.environment(),
            cwd=self._place.checkout,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            msg = f"prefect {' '.join(words)} exited with code {done.returncode}:\n{done.stdout}{done.stderr}"
            raise ServerError(msg)

    def _wait_for(self, name: str, process: subprocess.Popen[bytes], url: str) -> None:
        """Wait until this address responds."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5):
                return
            time.sleep(0.2)
        msg = f"the {name} did not start (code {process.poll()}); see {self._log(name)}"
        raise ServerError(msg)


_WITH_DEFAULT_SIGNALS = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)  # shells ignore it for background jobs
signal.signal(signal.SIGINT, signal.default_int_handler)
import runpy
sys.argv = ["prefect", *sys.argv[1:]]
runpy.run_module("prefect", run_name="__main__", alter_sys=True)
"""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a part, then terminate the flow runs that it waits for, then kill both."""
    if process.poll() is not None:
        return
    children = _descendants(process.pid)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=_SIGNAL_SECONDS)
    except subprocess.TimeoutExpired:
        children = _descendants(process.pid)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_END_SECONDS)
    _, alive = psutil.wait_procs(children, timeout=_SIGNAL_SECONDS)
    for child in alive:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    if process.poll() is None:
        process.kill()
    process.wait()


def _descendants(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            msg = f"port {port} is taken; if no server is running there, choose another with: make server PORT=4300"
            raise UsageError(msg)


def main(words: Sequence[str] | None = None) -> int:
    """Run everything until Ctrl-C or SIGTERM; exit code 0 then, 1 if a part exited, 2 for wrong usage."""
    from storage.store.layout import DEFAULT_STORE, STORE_VARIABLE

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument("--home", type=Path, default=Path(".prefect"), help="database and logs")
    parser.add_argument("--store", type=Path, default=Path(os.environ.get(STORE_VARIABLE, DEFAULT_STORE)))
    parser.add_argument(
        "--poll", type=float, default=2.0, help="interval in seconds at which the worker asks for flow runs"
    )
    parser.add_argument("--flow-runs", type=int, default=4, help="maximum number of concurrent flow runs")
    asked = parser.parse_args(words)
    place = ServerPlace(
        asked.home.absolute(), asked.store.absolute(), asked.port, Path.cwd(), asked.poll, asked.flow_runs
    )
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        with ServerParts(place) as parts:
            parts.start()
            say(f"ready; in other shells: export PREFECT_API_URL={place.url} MEDSAM3_STORE={place.store}")
            parts.wait()
    except KeyboardInterrupt:
        say("stopped")
        return 0
    except (UsageError, ServerError) as error:
        say(f"medsam3: {error}")
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the end
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
