"""What happens to flow runs when their process or their server dies; minutes long, run by make test-long."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from flows.service.automations import SILENCE_SECONDS
from storage.catalog.guard import run_sql
from storage.store.layout import open_store
from tests.journeys.schedules.conftest import ROOT, Site, wait_for
from tests.server_processes import free_port
from tests.stores.small import ingest_here

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
_SLEEPER = """
import time
from flows.settings.environment import prepare_environment
prepare_environment()
from prefect import flow
@flow(name="maintenance", flow_run_name="sleeper")
def sleeper():
    time.sleep(600)
sleeper()
"""


def test_a_flow_run_whose_process_was_killed_is_crashed_by_the_automation(site: Site) -> None:
    process = subprocess.Popen([sys.executable, "-c", _SLEEPER], env=site.environment)
    asked = {"flow_runs": {"name": {"any_": ["sleeper"]}}}
    heard = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
    wait_for(lambda: site.post("/events/filter", heard)["events"])
    process.kill()
    process.wait()
    (run,) = site.post("/flow_runs/filter", asked)
    assert run["state_type"] == "RUNNING"
    state = site.ended(run["id"])
    assert (state["type"], state["message"]) == ("CRASHED", f"no heartbeat for {SILENCE_SECONDS} s")


def test_a_server_that_restarts_in_the_middle_costs_a_benchmark_no_case(tmp_path: Path) -> None:
    store, port = open_store(tmp_path / "store"), free_port()
    ingest_here(store, "phantom:fundus,cases=60,size=64x64", "eyes")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "MEDSAM3_STORE": str(store.root),
    }

    def start_server() -> subprocess.Popen[bytes]:
        words = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(
            [sys.executable, *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: _healthy(port))
        return server

    server = start_server()
    words = ["benchmark", "--cohort", "eyes", "--weights", "baseline:otsu", "--prompt", "box", "--split", "all"]
    benchmark = subprocess.Popen([sys.executable, "-m", "flows", *words, "--cluster", "local:1"], env=environment)
    wait_for(lambda: any(store.runs().glob("*/outcomes/*.parquet")) or benchmark.poll() is not None)
    assert benchmark.poll() is None, "the benchmark was over before the server could be killed"
    children = psutil.Process(server.pid).children(recursive=True)
    for process in (server, *children):
        process.send_signal(signal.SIGKILL)
    server.wait()
    time.sleep(5)
    server = start_server()
    try:
        if benchmark.wait(timeout=900) != 0:  # where the server needs longer than Prefect's client has patience
            again = [sys.executable, "-m", "flows", "benchmark", "--cluster", "local:1"]
            subprocess.run(again, env=environment, check=True)
        attempts = "SELECT count(*) AS n, count(DISTINCT case_id) AS cases FROM outcomes"
        assert run_sql(store, attempts).to_pylist() == [{"n": 60, "cases": 60}]
        runs = httpx.post(f"http://127.0.0.1:{port}/api/flow_runs/filter", json={}, timeout=60).json()
        assert "COMPLETED" in {run["state_type"] for run in runs} or benchmark.returncode
    finally:
        server.terminate()
        server.wait(timeout=60)


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=5).is_success
    except httpx.HTTPError:
        return False
