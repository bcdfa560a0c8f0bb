"""Cost of a million cases: planning and resuming, the stream, files on disk.

    python -m benchmarks.scale [--cases 1000000] [--stream-cases 100000] [--part plan|stream]

plan: writes the tables of a cohort of --cases 2D cases, half of them scored, in files of 500 rows as batches write
them. Then a process plans the pending cases, as every `medsam3 benchmark` does at its start. Prints wall time and peak
resident memory.

stream: ingests --stream-cases phantoms of 48 x 48 pixels and segments them with a segmenter that predicts nothing, on
two Dask workers, through the stream of the flows: read, prompt, predict, score, write, commit. Driver time is CPU time
of the driver per case; driver memory is the mean of the last quarter of the run over that of the first. Then counts
all files of the store.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from flows.settings.environment import prepare_environment

prepare_environment()

from flows.clusters.clusters import Workers, dask_workers  # noqa: E402
from flows.settings.clusters import parse_cluster  # noqa: E402 - the environment comes first
from medsam3_core.capabilities import Capabilities  # noqa: E402
from medsam3_core.inference.protocol import SliceInstances  # noqa: E402
from medsam3_core.metrics.protocol_version import PROTOCOL_VERSION  # noqa: E402
from medsam3_core.prompts.prompts import SlicePrompt  # noqa: E402
from medsam3_core.settings.inference import InferenceSettings  # noqa: E402
from storage.cohorts.cohorts import Cohort, write_cohort  # noqa: E402
from storage.ingest.plan import IngestRequest, finish_ingest, plan_ingest  # noqa: E402
from storage.runs.ledger import Run, write_run  # noqa: E402
from storage.runs.plan import pending, record_plan  # noqa: E402
from storage.runs.requests import BenchmarkRequest, runs_of  # noqa: E402
from storage.sources.registry import find_reader  # noqa: E402
from storage.store import schemas  # noqa: E402
from storage.store.layout import StoreLayout, open_store  # noqa: E402
from tasks.ingest import IngestBatch, PendingCase  # noqa: E402
from tasks.segment import SegmentBatch  # noqa: E402
from tasks.stream.breadcrumbs import BreadcrumbFolder  # noqa: E402
from tasks.stream.sizing import BatchSizer  # noqa: E402
from tasks.stream.stream import Stream, StreamHooks  # noqa: E402
from tasks.stream.work import BatchWork  # noqa: E402

_ROWS_PER_FILE = 500
_REQUEST = BenchmarkRequest(("many",), ("baseline:box",), ("box",), split="all")
_SOURCE = "phantom:fundus,cases={},size=1x48x48"
_WORKERS = 2


def main() -> None:
    """Run the parts and print figures beside their targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000, help="cases of the part plan")
    parser.add_argument("--stream-cases", type=int, default=100_000, help="cases of the part stream")
    parser.add_argument("--part", choices=("plan", "stream"), help="only this part")
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)  # for the planning process
    arguments = parser.parse_args()
    if arguments.store:
        _plan(arguments.store)
        return
    for part in [arguments.part] if arguments.part else ["plan", "stream"]:
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(Path(folder) / "store")
            if part == "plan":
                _measure_planning(store, arguments.cases)
            else:
                _measure_stream(store, arguments.stream_cases)


def _measure_planning(store: StoreLayout, count: int) -> None:
    started = time.perf_counter()
    _write_tables(store, count, done=count // 2)
    files = sum(1 for path in store.root.rglob("*.parquet"))
    print(f"{count} cases, {count // 2} of them scored, in {files} table files ({time.perf_counter() - started:.0f} s)")
    call = [sys.executable, "-m", "benchmarks.scale", "--store", str(store.root)]
    answer = subprocess.run(call, check=True, capture_output=True, text=True).stdout.split()
    pending, peak = int(answer[0]), int(answer[3])
    (seconds, cpu), (again, _) = ([float(part) for part in text.split("/")] for text in answer[1:3])
    if pending != count - count // 2:
        sys.exit(f"{pending} cases are pending, expected {count - count // 2}")
    print(f"plan and resume scan   {seconds:8.1f} s   target 60   ({cpu:.1f} s of CPU)")
    print(f"the same, files cached {again:8.1f} s")
    print(f"highest memory         {peak / 1e9:8.2f} GB  target 2")


def _plan(root: Path) -> None:
    times = []
    for _ in range(2):
        started, cpu = time.perf_counter(), time.process_time()
        left = pending(StoreLayout(root), runs_of(StoreLayout(root), [_REQUEST])).pending
        times.append(f"{time.perf_counter() - started}/{time.process_time() - cpu}")
    print(left, *times, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _write_tables(store: StoreLayout, count: int, *, done: int) -> None:
    """Write the tables of an ingest of all cases and of a benchmark of the first `done` cases."""
    _, recipe = find_reader("phantom:fundus,cases=1")
    write_cohort(store, Cohort("many", recipe, ("phantom:fundus",)))
    ids = np.char.add("case_", np.char.zfill(np.arange(count).astype(str), 7))
    _write(store.cases("many"), schemas.CASES, ids, recipe.structures[:1], _case_columns)
    run = plan_benchmark_run(store)
    write_run(store, run)
    common = {
        "run_id": run.run_id, "weights": run.weights.name, "weights_version": run.weights.version,
        "weights_sha256": run.weights.sha256, "cohort": "many", "rater": "reference", "prompt": run.policy.canonical(),
        "prompt_id": run.prompt_id, "settings_id": run.settings.settings_id, "status": "scored", "dice": 0.5,
        "protocol": PROTOCOL_VERSION, "modality": recipe.modality, "ndim": 2,
    }  # fmt: skip
    names = [structure.name for structure in recipe.structures]
    for folder, schema, rows, structures in (
        (store.plan(run.run_id), schemas.PLAN, ids, names),
        (store.outcomes(run.run_id), schemas.OUTCOMES, ids[:done], [None]),
        (store.scores(run.run_id), schemas.SCORES, ids[:done], names),
        (store.prompts("many", run.prompt_id), schemas.PROMPTS, ids[:done], names),
    ):
        _write(folder, schema, rows, structures, partial(_row_columns, common, one_file=schema is schemas.PLAN))


def plan_benchmark_run(store: StoreLayout) -> Run:
    """The run of this benchmark's request."""
    request = BenchmarkRequest(("many",), ("baseline:box",), ("box",), split="all", limit=1)
    (group,) = pending(store, runs_of(store, [request])).groups
    (run,) = group.runs.values()
    return run


def _write(folder: Path, schema: pa.Schema, ids: Any, structures: Sequence[Any], columns: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    step = len(ids) if folder.name == "plan" else _ROWS_PER_FILE
    for number, start in enumerate(range(0, len(ids), step)):
        chunk = ids[start : start + step]
        values = columns(np.repeat(chunk, len(structures)), list(structures) * len(chunk), number)
        missing = {name: None for name in schema.names if name not in values}
        rows = len(chunk) * len(structures)
        arrays = [_array(values.get(field.name, missing.get(field.name)), rows, field.type) for field in schema]
        pq.write_table(pa.table(arrays, schema=schema), folder / f"batch-{number:06d}.parquet", compression="zstd")


def _array(value: Any, rows: int, kind: pa.DataType) -> pa.Array:
    if value is None:
        return pa.nulls(rows, kind)
    if isinstance(value, np.ndarray):
        return pa.array(value.tolist(), kind)
    return pa.array(value if isinstance(value, list) and not pa.types.is_list(kind) else [value] * rows, kind)


def _digests(ids: Any) -> list[str]:
    return [f"{int(name[5:]):064x}" for name in ids]


def _case_columns(ids: Any, structures: Sequence[Any], number: int) -> dict[str, Any]:
    return {
        "cohort": "many", "case_id": ids, "patient_id": ids, "status": "accepted", "case_digest": _digests(ids),
        "modality": "fundus", "ndim": 2, "size_z": 1, "size_y": 48, "size_x": 48, "distance_unit": "px",
        "raters": ["reference"], "structures": [structures[0].name], "in_training": [], "source_root": "phantom:fundus",
        "source": ids, "source_fingerprint": _digests(ids), "ingested_at": datetime(2026, 1, 1) + timedelta(0, number),
    }  # fmt: skip


def _row_columns(
    common: dict[str, Any], ids: Any, structures: Sequence[Any], number: int, *, one_file: bool
) -> dict[str, Any]:
    moment = datetime(2026, 1, 2) + timedelta(0, number)
    own = {"case_id": ids, "structure": list(structures), "case_digest": _digests(ids), "patient_id": ids}
    times = {"attempt": f"batch-{number:06d}", "finished_at": moment, "planned_at": moment, "kind": "box"}
    return common | own | times


@dataclass(frozen=True, slots=True)
class NullSegmenter:
    """Accepts boxes and predicts nothing, which leaves the cost of everything else."""

    name: str = "null"
    version: int = 1
    digest: str = "null"
    device: str = "cpu"
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(text=False, box=True))

    def precision(self, settings: InferenceSettings) -> str:
        """Precision in the record of the run."""
        return "uint8"

    def encode(self, images: Sequence[Any], settings: InferenceSettings) -> list[tuple[int, ...]]:
        """The shape of each slice."""
        return [np.asarray(image).shape[:2] for image in images]

    def segment(
        self, encoding: tuple[int, ...], prompts: Sequence[SlicePrompt], settings: InferenceSettings
    ) -> list[SliceInstances]:
        """No instances."""
        nothing = SliceInstances(
            np.zeros((0, *encoding), bool), np.zeros(0, dtype=np.float32), np.zeros((0, 4), dtype=np.float32)
        )
        return [nothing] * len(prompts)


def _measure_stream(store: StoreLayout, count: int) -> None:
    with dask_workers(parse_cluster(f"local:{_WORKERS}"), []) as workers:
        plan = plan_ingest(store, IngestRequest(_SOURCE.format(count), "many"))
        ingest = IngestBatch(store, "many", plan.cohort.recipe, plan.source_root)
        unread = [PendingCase(case, fingerprint) for case, fingerprint in plan.pending]
        _report("ingest", _streamed(workers, store, ingest, unread), count)
        finish_ingest(store, plan)
        del unread, plan
        (group,) = pending(store, runs_of(store, [_REQUEST])).groups
        record_plan(store, group)
        work = SegmentBatch(store, group.cohort.recipe, group.runs, NullSegmenter)
        _report("segment", _streamed(workers, store, work, group.pending), count)
    left = pending(store, runs_of(store, [_REQUEST])).pending
    files = sum(1 for path in store.root.rglob("*") if path.is_file())
    print(f"pending afterwards     {left:8d}     target 0")
    print(f"files per case         {files / count:8.3f}     target 3 ({files} files)")


@dataclass
class _Measured:
    wall: float = 0.0
    driver_cpu: float = 0.0
    driver_rss: list[int] = field(default_factory=list)
    batches: int = 0


def _streamed(workers: Workers, store: StoreLayout, work: BatchWork, cases: Sequence[Any]) -> _Measured:
    measured, stop, process = _Measured(), threading.Event(), psutil.Process()

    def sample() -> None:
        while not stop.wait(0.25):
            measured.driver_rss.append(process.memory_info().rss)

    sampling = threading.Thread(target=sample)
    sampling.start()
    wall, cpu = time.perf_counter(), time.process_time()
    counts = Stream(
        workers.client, work, cases,
        sizer=BatchSizer(workers.slots), max_inflight=2 * workers.slots,
        crumbs=BreadcrumbFolder(store.breadcrumbs() / "scale"),
        hooks=StreamHooks(lambda case, reason: sys.exit(f"{case.case_id}: {reason}")),
    ).run()  # fmt: skip
    measured.wall, measured.driver_cpu = time.perf_counter() - wall, time.process_time() - cpu
    measured.batches = counts.batches
    stop.set()
    sampling.join()
    return measured


def _report(name: str, measured: _Measured, count: int) -> None:
    quarter = max(1, len(measured.driver_rss) // 4)
    first, last = (statistics.mean(part) for part in (measured.driver_rss[:quarter], measured.driver_rss[-quarter:]))
    print(f"{name}: {count} cases in {measured.batches} batches, {measured.wall:.0f} s")
    print(f"  {1000 * measured.wall / count:6.2f} ms a case over {_WORKERS} workers, wall")
    print(f"  {1000 * measured.driver_cpu / count:6.3f} ms a case of driver time   target 3")
    print(
        f"  {last / first:6.3f} driver memory, last quarter over first   target 1.1 ({last / 1e6:.0f} MB)", flush=True
    )


if __name__ == "__main__":
    main()
