"""`--cluster tcp://...` against real `dask scheduler` and `dask worker` processes, which are killed like others."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from distributed import Client

from flows.clusters.clusters import dask_workers
from flows.clusters.worker_check import WorkerCheckError
from flows.settings.clusters import parse_cluster
from medsam3_core.errors import UsageError
from storage.store.layout import open_store
from storage.weights.registry import find_weights
from tasks.plugin import SegmenterPlugin
from tests import ROOT
from tests.journeys.main_job.conftest import Medsam3, Started, rows, wait_until
from tests.server_processes import free_port

BENCHMARK = ("benchmark", "--cohort", "eyes", "--weights", "baseline:box", "--prompt", "box", "--split", "all")


class ExternalCluster:
    """Scheduler and workers as a site's supervisor would start them."""

    def __init__(self, folder: Path) -> None:
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self._folder, self._running = folder, []  # type: ignore[var-annotated]

    def scheduler(self) -> subprocess.Popen[bytes]:
        port = self.address.rpartition(":")[2]
        return self._start("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")

    def worker(self, *options: str, path: Path = ROOT) -> subprocess.Popen[bytes]:
        words = (self.address, "--nthreads", "1", "--no-dashboard", "--death-timeout", "60", *options)
        return self._start("worker", "--host", "127.0.0.1", *words, path=path)

    def _start(self, *words: str, path: Path = ROOT) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(path), "DASK_LOGGING__DISTRIBUTED": "error"}
        log = (self._folder / f"{words[0]}-{len(self._running)}.log").open("wb")
        command = [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]]
        process = subprocess.Popen(command, env=environment, cwd=self._folder, stdout=log, stderr=log)
        self._running.append(process)
        return process

    def end(self) -> None:
        for process in self._running:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()


@contextmanager
def external(folder: Path) -> Iterator[ExternalCluster]:
    cluster = ExternalCluster(folder)
    try:
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ExternalCluster]:
    with external(tmp_path) as running:
        yield running


def test_a_scheduler_that_is_killed_and_comes_back_costs_no_case(
    cluster: ExternalCluster, medsam3: Medsam3, started: Started, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    scheduler, worker = cluster.scheduler(), cluster.worker()
    medsam3("ingest", "phantom:mr,cases=40,size=6x48x48", "--cohort", "eyes", "--cluster", cluster.address, store=store)
    running = started(*BENCHMARK, "--cluster", cluster.address, store=store)
    done = f"{store}/runs"
    wait_until(lambda: bool(list(Path(done).glob("*/outcomes/*.parquet"))) or running.poll() is not None, "a batch")
    scheduler.kill()
    worker.kill()
    time.sleep(1)
    cluster.scheduler()
    cluster.worker()
    _, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors
    assert "the Dask scheduler was restarted" in errors
    counts = rows(store, "SELECT status, count(*) AS n, count(DISTINCT case_id) AS cases FROM outcomes GROUP BY status")
    assert counts == [{"status": "scored", "n": 40, "cases": 40}]


def test_workers_that_differ_or_lack_something_are_refused_by_name_before_any_work(
    cluster: ExternalCluster, tmp_path: Path
) -> None:
    settings = parse_cluster("x", {"x": {"kind": "address", "address": cluster.address, "wait_seconds": 60}})
    quick = parse_cluster("x", {"x": {"kind": "address", "address": cluster.address, "wait_seconds": 1}})
    with pytest.raises(UsageError, match=r"no Dask scheduler answers at tcp://.* within 1 s"), dask_workers(quick, []):
        pass
    cluster.scheduler()
    changed = _copy_of_the_code(tmp_path / "other")
    with Client(cluster.address, set_as_default=False, timeout=60):
        pass
    with (
        pytest.raises(UsageError, match=r"no worker connected to tcp://.* within 1 s; start some with: dask worker"),
        dask_workers(quick, []),
    ):
        pass
    odd = cluster.worker(path=changed)
    with (
        pytest.raises(WorkerCheckError, match=r"worker tcp://127.0.0.1:\d+ on .* has medsam3 code \w+ instead of \w+"),
        dask_workers(settings, []),
    ):
        pass
    odd.kill()
    with Client(cluster.address, set_as_default=False) as client:
        wait_until(lambda: not client.scheduler_info(n_workers=-1)["workers"], "the odd worker to leave", seconds=60)
    cluster.worker()
    greedy = {"kind": "address", "address": cluster.address, "resources": {"GPU": 1}}
    with (
        pytest.raises(WorkerCheckError, match="offers 1 GPU; start workers with --resources GPU=1"),
        dask_workers(parse_cluster("greedy", {"greedy": greedy}), []),
    ):
        pass
    with ExitStack() as stack:
        workers = stack.enter_context(dask_workers(settings, []))
        store = open_store(tmp_path / "several")
        several = cluster.worker("--nthreads", "2")
        wait_until(lambda: len(workers.client.nthreads()) == 2, "the worker of two threads", seconds=60)
        with pytest.raises(
            UsageError, match=r"runs 2 tasks at a time, but loaded weights serve only one; start it with"
        ):
            workers.register(SegmenterPlugin(find_weights(store, "tiny-untrained"), 1))
        several.kill()
        wait_until(lambda: len(workers.client.nthreads()) == 1, "it to leave", seconds=60)
        store = open_store(tmp_path / "store")
        stack.enter_context(workers.on_store(store))
        assert not workers.local
        assert workers.client.submit(sum, [1, 2]).result(timeout=30) == 3


def _copy_of_the_code(target: Path) -> Path:
    """Our packages with one more line in one of them, as a worker that was not updated has them."""
    import shutil

    for package in ("medsam3_core", "storage", "tasks", "flows"):
        shutil.copytree(ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (target / "tasks" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write("# another version\n")
    return target
