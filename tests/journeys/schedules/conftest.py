"""Fixtures of the schedules, all real: what `make server` starts, on a free port, with a store and settings of its own.

| fixture | what it is |
|---|---|
| `site` | server, pool, deployments and one worker for the module, with a hook that notes what it is told |
| `starting_site` | the same while it starts: what a test needs in the store can be made meanwhile |
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from storage.store.layout import StoreLayout, open_store
from tests import ROOT
from tests.server_processes import free_port

HANG_LIMIT_SECONDS = 400
_HOOK = "import pathlib, sys; pathlib.Path(sys.argv[1]).open('a').write(sys.stdin.read() + chr(10))"


@dataclass(frozen=True)
class Site:
    """A running server with its worker.

    Attributes:
        process: What `make server` runs.
        url: `PREFECT_API_URL`.
        store: Store of the worker.
        folder: Settings and what the hook was told.
    """

    process: subprocess.Popen[bytes]
    url: str
    store: StoreLayout
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """For commands that talk to this server."""
        return {
            **os.environ,
            "PREFECT_API_URL": self.url,
            "PREFECT_HOME": str(self.folder / "client"),
            "MEDSAM3_STORE": str(self.store.root),
            "MEDSAM3_SETTINGS": str(self.folder / "medsam3.toml"),
        }

    def post(self, path: str, body: Any) -> Any:
        """Ask the API."""
        answer = httpx.post(self.url + path, json=body, timeout=60)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """Flow runs of a deployment, oldest first."""
        asked = {"deployments": {"name": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found: list[dict[str, Any]] = self.post("/flow_runs/filter", asked)
        return [run for run in found if run["auto_scheduled"] is False]

    def start(self, deployment: str, **parameters: Any) -> str:
        """Make a flow run, as the button in the UI does; its id."""
        known = httpx.get(f"{self.url}/deployments/name/{deployment}", timeout=60).json()
        made = self.post(
            f"/deployments/{known['id']}/create_flow_run",
            {"parameters": parameters, "state": {"type": "SCHEDULED"}, "enforce_parameter_schema": False},
        )
        return str(made["id"])

    def ended(self, run_id: str) -> dict[str, Any]:
        """The state in which a flow run ended; waits for it."""
        return wait_for(lambda: _final(httpx.get(f"{self.url}/flow_runs/{run_id}", timeout=60).json()["state"]))

    def told(self) -> list[dict[str, Any]]:
        """What the hook was told."""
        file = self.folder / "told.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def medsam3(self, *words: str, code: int = 0) -> str:
        """Run a command against this server; what it said on stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "flows", *words],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=HANG_LIMIT_SECONDS,
            check=False,
        )
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr


def wait_for(answer: Callable[[], Any], seconds: float = HANG_LIMIT_SECONDS) -> Any:
    """The first answer that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := answer():
            return found
        time.sleep(0.2)
    pytest.fail(f"waited {seconds} s")


@pytest.fixture(scope="module")
def starting_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, port = tmp_path_factory.mktemp("site"), free_port()
    store = open_store(folder / "store")
    hook = json.dumps([sys.executable, "-c", _HOOK, str(folder / "told.jsonl")])
    (folder / "medsam3.toml").write_text(f"[watch]\nquiet_seconds = 0.2\n[notify]\ncommand = {hook}\n")
    words = ["--port", str(port), "--home", str(folder / "prefect"), "--store", str(store.root), "--poll", "1"]
    log = folder / "site.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.service.server", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT), "MEDSAM3_SETTINGS": str(folder / "medsam3.toml")},
            cwd=ROOT,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        yield Site(process, f"http://127.0.0.1:{port}/api", store, folder)
        parts = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=HANG_LIMIT_SECONDS)
    assert code == 0, log.read_text()
    _, alive = psutil.wait_procs(parts, timeout=10)
    assert not alive, "make server left processes behind"


@pytest.fixture(scope="module")
def site(starting_site: Site) -> Site:
    process, log = starting_site.process, starting_site.folder / "site.log"
    wait_for(lambda: process.poll() is not None or "ready" in log.read_text())
    assert process.poll() is None, log.read_text()
    return starting_site


def _final(state: dict[str, Any]) -> dict[str, Any] | None:
    return state if state["type"] in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED") else None
