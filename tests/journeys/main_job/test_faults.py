"""Faults of the main job with real processes: nothing is lost, nothing is doubled, nobody innocent is blamed."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client, LocalCluster

from medsam3_core.errors import StoreError
from tasks.stream.breadcrumbs import BETWEEN_CASES, Breadcrumb, BreadcrumbFolder
from tasks.stream.sizing import BatchSizer
from tasks.stream.stream import BatchBreakerError, Stream, StreamCounts, StreamHooks
from tests.journeys.main_job.conftest import Medsam3, Started, copy_of, rows, wait_until, worker_processes


@dataclass(frozen=True)
class Item:
    case_id: str


class Repeatable:
    """Work of which nothing is committed: a batch whose worker died runs again as a whole."""

    def unfinished(self, batch_id: str, cases: Sequence[Item]) -> tuple[list[Item], dict[str, int]]:
        return list(cases), {}

    def record_crash(self, case: Item, reason: str) -> None:
        pass


@dataclass(frozen=True)
class NoteCases(Repeatable):
    """Notes every finished case in a file; some cases kill their worker, some batches fail as a whole.

    `bad_times` is how many cases must be finished before the killers stop to kill: whatever killed is over then.
    """

    folder: Path
    killers: frozenset[str] = frozenset()
    bad_times: int = 10_000
    eaters: frozenset[str] = frozenset()
    error: type[Exception] | None = None
    seconds: float = 0.0

    def __call__(self, batch_id: str, cases: Sequence[Item], crumb: Breadcrumb) -> dict[str, int]:
        if self.error:
            raise self.error("the network is down")
        for case in crumb.along(cases):
            if case.case_id in self.killers and len(list(self.folder.glob("case*"))) < self.bad_times:
                os._exit(9)
            eaten = []
            while case.case_id in self.eaters and len(eaten) < 40:  # 2 GB, if nobody stops it
                eaten.append(bytearray(b"1" * 50_000_000))
                time.sleep(0.05)
            time.sleep(self.seconds)
            (self.folder / case.case_id).touch()
        return {"scored": len(cases)}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster,
        Client(cluster, set_as_default=False) as connected,
    ):
        yield connected


def _run(client: Client, work: NoteCases, crumbs: Path, count: int) -> tuple[StreamCounts, list[str]]:
    poisoned: list[str] = []
    counts = Stream(
        client,
        work,
        [Item(f"case{index:03d}") for index in range(count)],
        sizer=BatchSizer(2, first=5),
        max_inflight=4,
        crumbs=BreadcrumbFolder(crumbs),
        hooks=StreamHooks(lambda case, reason: poisoned.append(f"{case.case_id}: {reason}")),
    ).run()
    return counts, poisoned


def test_a_case_beyond_the_memory_limit_is_named_as_such_and_the_machine_lives(tmp_path: Path) -> None:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", memory_limit="900MB"
        ) as cluster,
        Client(cluster, set_as_default=False) as small,
    ):
        work = NoteCases(tmp_path, eaters=frozenset({"case003"}))
        counts, poisoned = _run(small, work, tmp_path / "crumbs", 6)
    (sentence,) = poisoned
    assert sentence.startswith("case003: killed its worker 2 times by exceeding its memory limit; raise memory_limit")
    assert {path.name for path in tmp_path.glob("case*")} == {f"case{index:03d}" for index in (0, 1, 2, 4, 5)}
    assert counts.done == 6


def test_cases_that_kill_their_worker_are_found_and_nobody_else_is_blamed(client: Client, tmp_path: Path) -> None:
    done, crumbs = tmp_path / "done", tmp_path / "crumbs"
    done.mkdir()
    counts, poisoned = _run(client, NoteCases(done, frozenset({"case007", "case023"})), crumbs, 40)
    assert sorted(poisoned) == ["case007: killed its worker 2 times", "case023: killed its worker 2 times"]
    assert len(list(done.iterdir())) == 38
    assert counts.done == 40
    assert not crumbs.exists()


def test_a_struck_case_runs_again_after_all_others_when_bad_times_may_be_over(client: Client, tmp_path: Path) -> None:
    counts = Stream(
        client,
        NoteCases(tmp_path, frozenset({"case003"}), bad_times=100, seconds=0.03),
        [Item(f"case{index:03d}") for index in range(120)],
        sizer=BatchSizer(2, first=4, target_seconds=0.01),
        max_inflight=4,
        crumbs=BreadcrumbFolder(tmp_path / "crumbs"),
        hooks=StreamHooks(lambda case, reason: pytest.fail(f"{case.case_id} is innocent: {reason}")),
    ).run()
    assert len(list(tmp_path.glob("case*"))) == 120
    assert (counts.done, counts.statuses["scored"]) == (120, 120)


def test_workers_killed_from_outside_cost_no_case_and_blame_none(client: Client, tmp_path: Path) -> None:
    done = tmp_path / "done"
    done.mkdir()
    killed: list[int] = []

    def kill_one(counts: StreamCounts) -> None:
        if len(killed) < 2 and counts.batches >= (2, 6)[len(killed)] and (pids := _worker_pids(client)):
            killed.append(pids[0])
            os.kill(pids[0], signal.SIGKILL)

    counts = Stream(
        client,
        NoteCases(done, seconds=0.02),
        [Item(f"case{index:03d}") for index in range(60)],
        sizer=BatchSizer(2, first=4, target_seconds=0.1),
        max_inflight=4,
        crumbs=BreadcrumbFolder(tmp_path / "crumbs"),
        hooks=StreamHooks(lambda case, reason: pytest.fail(f"{case.case_id} is innocent: {reason}"), kill_one),
    ).run()
    assert len(killed) == 2
    assert len(list(done.iterdir())) == 60
    assert counts.done == 60


@dataclass(frozen=True)
class DiesAfterCommit(Repeatable):
    """Runs and commits a batch; the worker that does it first dies with what the breadcrumb says then."""

    folder: Path
    crumb: str

    def __call__(self, batch_id: str, cases: Sequence[Item], crumb: Breadcrumb) -> dict[str, int]:
        first = not any(self.folder.iterdir())
        (self.folder / batch_id).write_text(" ".join(case.case_id for case in cases))
        if first:
            crumb.at(self.crumb)
            os._exit(9)
        return {"scored": len(cases)}

    def unfinished(self, batch_id: str, cases: Sequence[Item]) -> tuple[list[Item], dict[str, int]]:
        file = self.folder / batch_id
        names = file.read_text().split() if file.exists() else []
        return [case for case in cases if case.case_id not in names], {"scored": len(names)}


@pytest.mark.parametrize("crumb", [BETWEEN_CASES, "case001", ""])
def test_what_a_lost_batch_had_committed_never_runs_again(client: Client, tmp_path: Path, crumb: str) -> None:
    """Dask runs a batch again whose result died with its worker: the breadcrumb is then that of the second run."""
    committed = tmp_path / "committed"
    committed.mkdir()

    counts = Stream(
        client,
        DiesAfterCommit(committed, crumb),
        [Item(f"case{index:03d}") for index in range(12)],
        sizer=BatchSizer(2, first=4),
        max_inflight=1,
        crumbs=BreadcrumbFolder(tmp_path / "crumbs"),
        hooks=StreamHooks(lambda case, reason: pytest.fail(f"{case.case_id} is innocent: {reason}")),
    ).run()
    names = [name for file in committed.iterdir() for name in file.read_text().split()]
    assert sorted(names) == [f"case{index:03d}" for index in range(12)]
    assert (counts.done, counts.statuses["scored"], counts.lost_batches) == (12, 12, 1)


def _worker_pids(client: Client) -> list[int]:
    return sorted(client.run(os.getpid).values())


def test_batches_that_fail_as_a_whole_open_the_breaker_and_write_nothing(client: Client, tmp_path: Path) -> None:
    with pytest.raises(BatchBreakerError, match="3 batches in a row failed as a whole, last ConnectionError"):
        _run(client, NoteCases(tmp_path, error=ConnectionError), tmp_path / "crumbs", 20)


def test_a_store_that_cannot_be_written_stops_the_stream_at_once(client: Client, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the network is down"):
        _run(client, NoteCases(tmp_path, error=StoreError), tmp_path / "crumbs", 20)


@pytest.fixture(scope="module")
def ingested(medsam3: Medsam3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("faults") / "store"
    phantoms = ("ingest", "phantom:mr,cases=12,size=10x48x48", "--cohort", "mr", "--cluster", "threads")
    medsam3(*phantoms, store=store)
    return store


BENCHMARK = ("benchmark", "--cohort", "mr", "--weights", "tiny-untrained", "--prompt", "text", "--split", "all")


def _outcomes(store: Path) -> int:
    return len(list(store.glob("runs/*/outcomes/*.parquet")))


def test_killed_workers_and_a_killed_driver_lose_and_double_no_row(
    ingested: Path, medsam3: Medsam3, started: Started, tmp_path: Path
) -> None:
    store = copy_of(ingested, tmp_path / "store")
    first = started(*BENCHMARK, store=store)
    wait_until(lambda: _outcomes(store) >= 1 or first.poll() is not None, "the first batch of the benchmark")
    worker_processes(first)[-1].send_signal(signal.SIGKILL)
    before = _outcomes(store)
    wait_until(lambda: _outcomes(store) > before or first.poll() is not None, "a batch after the worker's death")
    assert first.poll() is None, first.communicate()
    first.send_signal(signal.SIGKILL)
    first.wait()
    finished = medsam3(*BENCHMARK, store=store)
    assert "computed" in finished.stderr
    assert "results were up to date" in finished.stderr
    state = rows(store, "SELECT status, count(*) AS n, count(DISTINCT case_id) AS cases FROM scores GROUP BY status")
    planned = rows(store, "SELECT count(*) AS n FROM plan")[0]["n"]
    assert state == [{"status": "scored", "n": planned, "cases": 12}]


def test_interrupting_keeps_what_is_finished_and_leaves_no_process(
    ingested: Path, medsam3: Medsam3, started: Started, tmp_path: Path
) -> None:
    store = copy_of(ingested, tmp_path / "store")
    running = started(*BENCHMARK, store=store, own_server=True)  # as a user without a Prefect server runs it
    wait_until(lambda: _outcomes(store) >= 1 or running.poll() is not None, "the first batch of the benchmark")
    family = [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does it: to the whole process group
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 130, errors
    assert "interrupted; finished results are kept" in errors
    assert "Traceback" not in errors
    assert "leaked instance" not in errors
    wait_until(lambda: not any(_alive(process) for process in family), "all processes to end", seconds=30)
    kept = rows(store, "SELECT count(DISTINCT case_id) AS n FROM scores")[0]["n"]
    assert int(str(kept)) >= 1
    finished = medsam3(*BENCHMARK, store=store)
    assert f"{kept} results were up to date" in finished.stderr


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_two_benchmarks_of_the_same_run_cannot_write_at_once(
    ingested: Path, medsam3: Medsam3, started: Started, tmp_path: Path
) -> None:
    store = copy_of(ingested, tmp_path / "store")
    running = started(*BENCHMARK, store=store)
    wait_until(lambda: _outcomes(store) >= 1 or running.poll() is not None, "the first batch of the benchmark")
    assert running.poll() is None
    running.send_signal(signal.SIGSTOP)  # or a fast machine is done before the second has started
    try:
        second = medsam3(*BENCHMARK, store=store, code=2)
    finally:
        running.send_signal(signal.SIGCONT)
    assert "is being written by process" in second.stderr
