"""Chaos: workers and drivers are killed at random, cases are poison, corrupt or vanish; every case is accounted for.

The seed decides what is killed and after which pause; what the machine makes of it differs from run to run, the
sentences below hold for all of them.
"""

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.cohorts.volumes import open_case_volume
from storage.runs.predictions import open_prediction
from storage.store.atomic import TEMPORARY_PREFIX
from storage.store.layout import StoreLayout
from storage.store.schemas import CASES, OUTCOMES
from storage.store.tables import read_table
from tests.journeys.main_job.conftest import HANG_LIMIT_SECONDS, Started, cursed, rows, wait_until, worker_processes

CASES_IN_ALL = 200
POISON, CORRUPT, VANISHING = "eye_101", "eye_050", "eye_199"
BENCHMARK = ("benchmark", "--cohort", "eyes", "--weights", "baseline:box", "--prompt", "box", "--split", "all")


INGESTED, BENCHMARKED = "cohorts/eyes/cases/[!.]*.parquet", "runs/*/outcomes/[!.]*.parquet"


@pytest.fixture(scope="session")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs with their masks, as image pairs."""
    source = tmp_path_factory.mktemp("eyes") / "source"
    y, x = np.ogrid[:64, :64]
    for index in range(CASES_IN_ALL):
        disc = (y - 32) ** 2 + (x - 20 - index % 20) ** 2 < 150
        for folder, pixels in (("images", 60 + 120 * disc), ("masks", 255 * disc)):
            path = source / folder / f"eye_{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return source


class Chaos:
    """Kills random workers of a running command, and the command itself, at random moments."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.workers_killed = self.drivers_killed = 0

    @contextmanager
    def among_workers(self, process: subprocess.Popen[str], store: Path, batches: str) -> Iterator[None]:
        """While the block runs, kill one worker or two at once, each time a moment after some batch was committed."""
        stop = threading.Event()

        def kill_now_and_then() -> None:
            before = len(list(store.glob(batches)))
            blows = self._random.randint(2, 4)
            while blows and not stop.wait(self._random.uniform(0.05, 0.6)):
                if len(list(store.glob(batches))) == before:
                    continue  # else a slow machine would do nothing but start workers
                workers = worker_processes(process)
                for worker in self._random.sample(workers, min(len(workers), self._random.choice((1, 1, 2)))):
                    worker.kill()
                    self.workers_killed += 1
                before, blows = len(list(store.glob(batches))), blows - 1

        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        try:
            yield
        finally:
            stop.set()
            killer.join()

    def kill_driver(self, process: subprocess.Popen[str], store: Path, batches: str) -> None:
        """SIGKILL the command a moment after its first batches are committed."""
        some = self._random.randint(1, 4)
        wait_until(lambda: len(list(store.glob(batches))) >= some or process.poll() is not None, f"{some} x {batches}")
        time.sleep(self._random.uniform(0, 0.3))
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.drivers_killed += 1


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))])
def test_after_random_kills_every_case_has_one_outcome_and_the_right_reason(
    seed: int, eyes: Path, started: Started, tmp_path: Path
) -> None:
    source, store = tmp_path / "source", StoreLayout(tmp_path / "store")
    shutil.copytree(eyes, source)
    corrupt, vanishing = (next(source.rglob(f"images/{name}*")) for name in (CORRUPT, VANISHING))
    os.truncate(corrupt, corrupt.stat().st_size // 2)
    curse = cursed(**{f"{POISON}.ozx": "kill"})
    chaos = Chaos(seed)

    ingest = ("ingest", str(source), "--cohort", "eyes")
    first = started(*ingest, store=store.root, **curse)
    wait_until(lambda: any(store.listed("eyes").glob("*.parquet")) or first.poll() is not None, "the listing")
    for file in source.rglob(f"{vanishing.stem}*"):
        file.unlink()
    chaos.kill_driver(first, store.root, INGESTED)
    assert _under_fire(chaos, started(*ingest, store=store.root, **curse), store, INGESTED) == 1
    second = started(*BENCHMARK, store=store.root, **curse)
    chaos.kill_driver(second, store.root, BENCHMARKED)
    assert _under_fire(chaos, started(*BENCHMARK, store=store.root, **curse), store, BENCHMARKED) == 1

    assert chaos.drivers_killed == 2
    assert chaos.workers_killed >= 2
    _every_case_has_one_outcome(store)
    _the_right_cases_have_the_right_reasons(store)
    _nothing_under_a_final_name_is_half_written(store)


def _under_fire(chaos: Chaos, process: subprocess.Popen[str], store: StoreLayout, batches: str) -> int:
    with chaos.among_workers(process, store.root, batches):
        _, errors = process.communicate(timeout=HANG_LIMIT_SECONDS)
    assert "Traceback" not in errors, errors[:12000]
    return process.returncode


def _every_case_has_one_outcome(store: StoreLayout) -> None:
    (run,) = store.runs().iterdir()
    outcomes = read_table(store.outcomes(run.name), OUTCOMES).to_pylist()
    assert len(outcomes) == len({row["case_id"] for row in outcomes}) == CASES_IN_ALL
    assert rows(store.root, "SELECT count(*) AS n, count(DISTINCT case_id) AS cases FROM outcomes") == [
        {"n": CASES_IN_ALL, "cases": CASES_IN_ALL}
    ]
    assert rows(store.root, "SELECT DISTINCT planned = scored + failed AS holds FROM leaderboard") == [{"holds": True}]


def _the_right_cases_have_the_right_reasons(store: StoreLayout) -> None:
    odd = rows(store.root, "SELECT case_id, status, reason FROM outcomes WHERE status <> 'scored' ORDER BY case_id")
    found = {str(row["case_id"]): f"{row['status']}: {row['reason']}" for row in odd}
    assert found.keys() == {POISON, CORRUPT, VANISHING}
    assert found[POISON].startswith("crashed: killed its worker")
    assert found[CORRUPT].startswith("rejected: ")
    assert "truncated" in found[CORRUPT]
    assert found[VANISHING].startswith("rejected: ")
    assert "No such file" in found[VANISHING]


def _nothing_under_a_final_name_is_half_written(store: StoreLayout) -> None:
    (run,) = store.runs().iterdir()
    cases = {row["case_id"]: row["case_digest"] for row in read_table(store.cases("eyes"), CASES).to_pylist()}
    volumes = [path for path in store.root.rglob("volumes/*/*.ozx") if not path.name.startswith(TEMPORARY_PREFIX)]
    assert len(volumes) == CASES_IN_ALL - 2
    for path in volumes:
        volume = open_case_volume(path)
        assert volume.voxels().shape[-2:] == (64, 64)
        assert volume.case_digest == cases[path.stem]
    for path in run.glob("predictions/*/[!.]*.ozx"):
        assert open_prediction(path).labels("foreground").shape[-2:] == (64, 64)
