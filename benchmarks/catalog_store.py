"""A store of synthetic score tables for the catalog benchmark: seeded, with failures and training rows, no images."""

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medsam3_core.metrics.protocol_version import PROTOCOL_VERSION
from medsam3_core.metrics.table import METRICS
from storage.catalog.relations import COMPACTED_FILE
from storage.store import schemas
from storage.store.atomic import write_json
from storage.store.layout import StoreLayout

COHORT = "synthetic"
N_STRUCTURES = 20
N_RUNS = 20
CASES_PER_PATIENT = 4
_NOW = datetime(2026, 1, 2, tzinfo=UTC).replace(tzinfo=None)


@dataclass(frozen=True, slots=True)
class SyntheticRun:
    """One run of the synthetic store."""

    number: int

    @property
    def run_id(self) -> str:
        """Twelve hex digits."""
        return f"{self.number:012x}"

    @property
    def weights(self) -> str:
        """Two runs (two prompts) per weights."""
        return f"weights-{self.number // 2}"

    @property
    def prompt(self) -> str:
        """Canonical policy."""
        return ("text", "box:per=structure")[self.number % 2]


def write_synthetic_store(root: Path, *, rows: int, files_per_run: int = 1, runs: int = N_RUNS) -> StoreLayout:
    """Write a store with about `rows` score rows: runs x cases x structures, one cohort.

    Compaction leaves one file per run; workers write more.
    """
    store = StoreLayout(root)
    n_cases = max(rows // (runs * N_STRUCTURES), CASES_PER_PATIENT)
    _write(store.cases(COHORT), 0, _cases_table(n_cases))
    for run in map(SyntheticRun, range(runs)):
        write_json(store.run_json(run.run_id), _run_json(run))
        _write(store.plan(run.run_id), 0, _plan_table(run, n_cases))
        scores = _scores_table(run, n_cases, files_per_run)
        bounds = [round(n_cases * part / files_per_run) for part in range(files_per_run + 1)]
        for number, (start, stop) in enumerate(pairwise(bounds)):
            part = scores.slice(start * N_STRUCTURES, (stop - start) * N_STRUCTURES)
            name = COMPACTED_FILE if files_per_run == 1 else None
            _write(store.scores(run.run_id), number, part, name)
            _write(store.outcomes(run.run_id), number, _outcomes_table(part))
    return store


def _write(folder: Path, number: int, table: pa.Table, name: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / (name or f"batch-{number:05d}.parquet"), compression="zstd")


def _case_ids(n_cases: int) -> np.ndarray:
    return np.array([f"case-{number:06d}" for number in range(n_cases)])


def _table(schema: pa.Schema, n: int, **columns: object) -> pa.Table:
    arrays = []
    for field in schema:
        value = columns.get(field.name)
        if isinstance(value, np.ndarray):
            arrays.append(pa.array(value).cast(field.type))
        elif isinstance(value, pa.Array):
            arrays.append(value)
        else:
            arrays.append(pa.repeat(pa.scalar(value, field.type), n))
    return pa.Table.from_arrays(arrays, schema=schema)


def _digests(case_ids: np.ndarray) -> np.ndarray:
    return np.array([f"{number * 0x9E3779B97F4A7C15 % 2**64:064x}" for number in range(len(case_ids))])


def _patients(n_cases: int) -> np.ndarray:
    return np.array([f"patient-{number // CASES_PER_PATIENT:06d}" for number in range(n_cases)])


def _structures(n_cases: int) -> np.ndarray:
    return np.tile(np.array([f"organ-{number:02d}" for number in range(N_STRUCTURES)]), n_cases)


def _cases_table(n_cases: int) -> pa.Table:
    ids = _case_ids(n_cases)
    return _table(
        schemas.CASES,
        n_cases,
        cohort=COHORT,
        case_id=ids,
        patient_id=_patients(n_cases),
        split="test",
        status="accepted",
        case_digest=_digests(ids),
        modality="CT",
        ndim=3,
        ingested_at=_NOW,
    )


def _plan_table(run: SyntheticRun, n_cases: int) -> pa.Table:
    n = n_cases * N_STRUCTURES
    ids = np.repeat(_case_ids(n_cases), N_STRUCTURES)
    return _table(
        schemas.PLAN,
        n,
        run_id=run.run_id,
        case_id=ids,
        rater="reference",
        structure=_structures(n_cases),
        planned_at=_NOW,
    )


def _scores_table(run: SyntheticRun, n_cases: int, files: int) -> pa.Table:
    """Random scores: 1 % of the cases fail, 2 % are training cases, 5 % of the structures are absent."""
    n = n_cases * N_STRUCTURES
    random = np.random.default_rng(run.number)
    failed = np.repeat(random.random(n_cases) < 0.01, N_STRUCTURES)
    absent = random.random(n) < 0.05
    missing = failed | absent
    metrics = {name: pa.array(random.random(n), mask=missing) for name in METRICS}
    ids = _case_ids(n_cases)
    batch = np.arange(n_cases) * files // n_cases
    empty = pa.array(np.where(absent, "both", "none"), mask=failed)
    return _table(
        schemas.SCORES,
        n,
        run_id=run.run_id,
        attempt=np.repeat(np.array([f"{run.run_id}-{number:05d}" for number in range(files)])[batch], N_STRUCTURES),
        weights=run.weights,
        weights_version=1,
        weights_sha256=f"{run.number:064x}",
        cohort=COHORT,
        split="test",
        in_training=np.repeat(random.random(n_cases) < 0.02, N_STRUCTURES),
        case_id=np.repeat(ids, N_STRUCTURES),
        case_digest=np.repeat(_digests(ids), N_STRUCTURES),
        patient_id=np.repeat(_patients(n_cases), N_STRUCTURES),
        modality="CT",
        ndim=3,
        rater="reference",
        structure=_structures(n_cases),
        prompt=run.prompt,
        prompt_id=run.prompt,
        settings_id="default",
        privileged=run.prompt != "text",
        status=np.where(failed, "failed", "scored"),
        empty=empty,
        distance_unit="mm",
        finished_at=_NOW,
        protocol=PROTOCOL_VERSION,
        **metrics,
    )


def _outcomes_table(scores: pa.Table) -> pa.Table:
    one_per_case = scores.take(pa.array(np.arange(0, scores.num_rows, N_STRUCTURES)))
    shared = {name: one_per_case[name].combine_chunks() for name in ("run_id", "case_id", "attempt", "case_digest")}
    return _table(
        schemas.OUTCOMES,
        one_per_case.num_rows,
        **shared,
        status=one_per_case["status"].combine_chunks(),
        seconds_segment=1.5,
        device="cpu",
        finished_at=_NOW,
    )


def _run_json(run: SyntheticRun) -> dict[str, object]:
    return {
        "run_id": run.run_id,
        "weights": run.weights,
        "weights_version": 1,
        "weights_sha256": f"{run.number:064x}",
        "cohort": COHORT,
        "prompt": run.prompt,
        "prompt_id": run.prompt,
        "privileged": run.prompt != "text",
        "settings": "",
        "settings_id": "default",
        "inference_code": "1",
        "git_commit": None,
        "machine": "synthetic",
        "versions": "{}",
        "created_at": _NOW.isoformat(),
    }
