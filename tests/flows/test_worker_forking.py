"""Workers that are forked: everything imported, the environment of now, deaf to Ctrl-C, gone with their driver."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.clusters.forking import forks
from flows.settings.clusters import ClusterKind, ClusterSettings, parse_cluster
from tests.journeys.main_job.conftest import wait_until

DRIVER = """
import json, os, signal, sys, time
from flows.settings.environment import prepare_environment
prepare_environment()
from flows.settings.clusters import parse_cluster
from flows.clusters.forking import begin_forking

def faults_of_large_blocks():
    import resource
    def block():
        b"x" * 2**26
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return -block() + block()

def facts():
    return {
        "pid": os.getpid(), "parent": os.getppid(),
        "imported": [name for name in ("tasks.segment", "tasks.ingest") if name in sys.modules],
        "deaf to Ctrl-C": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        "set later": os.environ.get("LATER"), "threads": os.environ["OMP_NUM_THREADS"],
        "page faults": faults_of_large_blocks(),
    }

begin_forking(parse_cluster("local:2"), [])
os.environ["LATER"] = "seen"
from flows.clusters.clusters import dask_workers
with dask_workers(parse_cluster("local:2"), []) as workers:
    print(json.dumps(list(workers.client.run(facts).values())), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not forks(ClusterSettings()), reason="workers are spawned on this machine")
def test_forked_workers_have_everything_imported_and_end_with_a_killed_driver() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True, env=environment) as driver:
        assert driver.stdout is not None
        facts = json.loads(driver.stdout.readline())
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGKILL)
    (parent,) = {one["parent"] for one in facts}
    assert parent != driver.pid, "both come from one process that is not the driver"
    assert {parent, *(one["pid"] for one in facts)} <= {one.pid for one in family}
    for one in facts:
        assert one["imported"] == ["tasks.segment", "tasks.ingest"]
        assert (one["deaf to Ctrl-C"], one["set later"], one["threads"]) == (True, "seen", "1")
        assert one["page faults"] < 1000, "64 MB that were freed are 16,384 pages to be faulted in anew"
    wait_until(lambda: not any(_alive(one) for one in family), "all processes to end", 60)


def test_other_clusters_and_the_users_own_choice_are_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(forks(ClusterSettings(kind)) for kind in (ClusterKind.THREADS, ClusterKind.GPU))
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD", "spawn")
    assert not forks(parse_cluster("local"))


EARLY = """
import sys
from pathlib import Path
from flows.clusters.clusters import dask_workers, workers_starting
from flows.settings.clusters import parse_cluster
from storage.store.layout import StoreLayout
from storage.weights.registry import find_weights

def has_model():
    return "storage.weights.checkpoints" in sys.modules

cluster, weights = parse_cluster("local:1"), [find_weights(StoreLayout(Path(sys.argv[1])), "tiny-medical")]
with workers_starting(cluster, weights), dask_workers(cluster, weights) as workers:
    print(has_model(), *workers.client.run(has_model).values(), flush=True)
"""


def test_the_model_is_imported_by_early_workers_and_not_by_their_driver(tmp_path: Path) -> None:
    command = [sys.executable, "-c", EARLY, str(tmp_path / "store")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert ended.stdout.split() == ["False", "True"]


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
