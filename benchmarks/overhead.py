"""Cost of orchestration: a benchmark of 2,000 small 2D cases on two workers against a bare loop.

    python -m benchmarks.overhead [--cases 2000] [--size 96] [--weights baseline:otsu] [--rounds 3]

Both sides do the same reads, prompts, inference, scores and writes on the same store with two processes. The bare side
calls the unit of work case by case and writes one table per process at the end: no Prefect, no Dask, no commits in
between. Start-up (Prefect with an existing database, Dask, weights) is reported separately. Both sides run in turns,
because shared machines drift.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from flows.settings.environment import prepare_environment

prepare_environment()

from medsam3_core.inference.protocol import Segmenter  # noqa: E402 - the environment comes first
from storage.runs.plan import WorkGroup, pending  # noqa: E402
from storage.runs.requests import BenchmarkRequest, runs_of  # noqa: E402
from storage.store.layout import StoreLayout, open_store  # noqa: E402
from storage.weights.registry import load_segmenter  # noqa: E402
from tasks.segment import SegmentBatch  # noqa: E402
from tasks.stream.breadcrumbs import BreadcrumbFolder  # noqa: E402
from tasks.stream.work import run_batch  # noqa: E402

WORKERS = 2


def main() -> None:
    """Build the cohort once, run both sides in turns, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--weights", default="baseline:otsu")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "store"
        source = f"phantom:fundus,cases={arguments.cases},size=1x{arguments.size}x{arguments.size}"
        _command("ingest", source, "--cohort", "small", "--store", str(base))
        request = BenchmarkRequest(("small",), (arguments.weights,), ("box",), split="all")
        pairs = [_one_round(base, request, arguments.weights) for _ in range(arguments.rounds)]
    _report(pairs, arguments)


@dataclass(frozen=True)
class Round:
    """Seconds and memory of one round."""

    system: float
    startup: float
    bare: float
    peak_rss_bytes: int
    idle_rss_bytes: int


def _one_round(base: Path, request: BenchmarkRequest, weights: str) -> Round:
    system, startup, peak, idle = _system(base, weights)
    return Round(system, startup, _bare(base, request), peak, idle)


def _system(base: Path, weights: str) -> tuple[float, float, int, int]:
    """Run the benchmark flow in a process; return its stream seconds, start-up seconds, peak and idle memory."""
    _forget_runs(base)
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.timed_flow", str(base), weights, str(WORKERS)],
        check=True,
        capture_output=True,
        text=True,
    )
    stream, startup, peak, idle = answer.stdout.split()[-4:]
    return float(stream), float(startup), int(peak), int(idle)


def _bare(base: Path, request: BenchmarkRequest) -> float:
    """Run half of the cases in each of two processes; the clock starts when both have loaded the weights."""
    _forget_runs(base)
    store = open_store(base)
    group = pending(store, runs_of(store, [request])).groups[0]
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(WORKERS + 1), context.Barrier(WORKERS + 1)
    processes = [
        context.Process(target=_bare_worker, args=(store, group, share, ready, go)) for share in range(WORKERS)
    ]
    for process in processes:
        process.start()
    ready.wait()
    started = time.perf_counter()
    go.wait()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - started
    if any(process.exitcode for process in processes):
        sys.exit("the bare loop failed")
    return seconds


def _bare_worker(store: StoreLayout, group: WorkGroup, share: int, ready: object, go: object) -> None:
    segmenter = load_segmenter(group.weights, "cpu")
    work = SegmentBatch(store, group.cohort.recipe, group.runs, partial(_the, segmenter))
    ready.wait()  # type: ignore[attr-defined]
    go.wait()  # type: ignore[attr-defined]
    crumbs = BreadcrumbFolder(store.breadcrumbs() / uuid.uuid4().hex)
    run_batch(work, f"bare-{share}", crumbs, group.pending[share::WORKERS])


def _the(segmenter: Segmenter) -> Segmenter:
    return segmenter


def _forget_runs(base: Path) -> None:
    """Remove runs and prompts, so that both sides start without them."""
    shutil.rmtree(base / "runs", ignore_errors=True)
    for prompts in base.glob("cohorts/*/prompts"):
        shutil.rmtree(prompts)
    os.sync()


def _command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "flows", *arguments], check=True)


def _report(rounds: list[Round], arguments: argparse.Namespace) -> None:
    ratios = sorted(one.system / one.bare for one in rounds)
    system, bare = (statistics.median(getattr(one, side) for one in rounds) for side in ("system", "bare"))
    extra = max(one.peak_rss_bytes - one.idle_rss_bytes for one in rounds) / 1e6
    spread = f"min {ratios[0]:.3f} max {ratios[-1]:.3f}"
    print(f"{arguments.cases} cases of {arguments.size} x {arguments.size} px, {arguments.weights}, box")
    print(f"{WORKERS} workers, {len(rounds)} rounds, {psutil.cpu_count()} cores")
    print(f"system, once started   {system:8.2f} s   {1000 * system / arguments.cases:.2f} ms a case")
    print(f"bare loop              {bare:8.2f} s   {1000 * bare / arguments.cases:.2f} ms a case")
    print(f"system / bare          {statistics.median(ratios):8.3f}     {spread}   target 1.10")
    print(f"start-up               {statistics.median(one.startup for one in rounds):8.2f} s   target 12")
    print(f"worker memory above idle with weights {extra:6.0f} MB   target 300 MB for images this small")


if __name__ == "__main__":
    main()
