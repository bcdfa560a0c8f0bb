"""Runs in the store: spec, plan, outcomes and scores.

The catalog's view `scores` alone defines which scores are fresh; pending is the plan without the fresh scores.
Rows and files carry the id of the batch that wrote them, in a column that is called `attempt` for historical reasons.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medsam3_core.cases.cases import CaseStatus
from medsam3_core.metrics.protocol_version import PROTOCOL_VERSION
from medsam3_core.prompts.policies import PromptPolicy
from medsam3_core.run_specs import RunSpec
from medsam3_core.settings.inference import InferenceSettings
from storage.cohorts.cohorts import CaseRef, as_row
from storage.store.atomic import write_json
from storage.store.layout import StoreLayout, utc_now
from storage.store.schemas import MEASUREMENTS, OUTCOMES, PLAN, SCORES
from storage.store.tables import statuses_of, write_columns, write_rows
from storage.store.writers import committing
from storage.weights.shipped import shipped_training_digests
from storage.weights.weights import Weights

_VERSIONED = ("medsam3", "torch", "transformers", "numpy", "scipy", "zarr", "pyarrow", "duckdb", "dask", "prefect")


@dataclass(frozen=True, slots=True)
class Run:
    """One RunSpec with the other values of its rows; picklable and small.

    Attributes:
        weights: Name, version, digest, path.
        cohort: Cohort.
        policy: Prompt policy.
        prompt_id: Digest of policy, texts and prompt code.
        settings: Inference settings.
        structures: Structures to segment, in the order of the recipe.
        texts: Structures and their texts, for a run that scores nothing: it segments and measures cases with or
            without a reference. Empty for a benchmark.
    """

    weights: Weights
    cohort: str
    policy: PromptPolicy
    prompt_id: str
    settings: InferenceSettings
    structures: tuple[str, ...]
    texts: tuple[tuple[str, str], ...] = ()

    @property
    def measures(self) -> bool:
        """True if cases end as segmented and measured instead of scored."""
        return bool(self.texts)

    @property
    def spec(self) -> RunSpec:
        """Identity of the run."""
        return RunSpec(self.weights.sha256, self.cohort, self.prompt_id, self.settings.settings_id)

    @property
    def run_id(self) -> str:
        """Name of the run in the store."""
        return self.spec.run_id


def write_run(store: StoreLayout, run: Run) -> None:
    """Record the run's spec, versions and machine, once."""
    path = store.run_json(run.run_id)
    if path.exists():
        return
    versions = {name: _version(name) for name in _VERSIONED}
    write_json(
        path,
        {
            "run_id": run.run_id,
            "weights": run.weights.name,
            "weights_version": run.weights.version,
            "weights_sha256": run.weights.sha256,
            "weights_identities": sorted(filter(None, run.weights.identities)),
            "cohort": run.cohort,
            "prompt": run.policy.canonical(),
            "prompt_id": run.prompt_id,
            "privileged": run.policy.privileged,
            "settings": run.settings.canonical(),
            "settings_all": asdict(run.settings),
            "settings_id": run.settings.settings_id,
            "inference_code": run.spec.inference_code,
            "git_commit": _git_commit(),
            "machine": f"{platform.node()} {platform.machine()} {os.cpu_count()} cores",
            "versions": json.dumps(versions, sort_keys=True),
            "created_at": utc_now().isoformat(),
            **({"structures": [list(item) for item in run.texts]} if run.measures else {}),
        },
    )


def write_plan(store: StoreLayout, run: Run, rows: Iterable[tuple[str, str | None, str]]) -> None:
    """Add (case_id, rater, structure) rows to the plan, as one file; no file without rows."""
    columns: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    case_ids, raters, structures = columns
    if case_ids:
        added = {"case_id": case_ids, "rater": raters, "structure": structures}
        write_columns(store.plan(run.run_id), added, {"run_id": run.run_id, "planned_at": utc_now()}, PLAN)


def write_outcomes(
    store: StoreLayout,
    run_id: str,
    batch_id: str,
    scores: Sequence[Mapping[str, Any]],
    outcomes: Sequence[Mapping[str, Any]],
    *,
    token: str = "",
) -> None:
    """Commit finished cases: scores first, then the outcomes that make them valid. Writing twice gives the same files.

    Args:
        store: The store.
        run_id: Run.
        batch_id: Names the files.
        scores: Rows of `storage.store.schemas.SCORES`.
        outcomes: Rows of `storage.store.schemas.OUTCOMES`.
        token: Token of the driver, for workers that may outlive it, see `storage.store.writers`.

    Raises:
        SupersededError: If another driver has taken over since.
    """
    with committing(store, run_id, token):
        if scores:
            write_rows(store.scores(run_id), scores, SCORES, name=batch_id)
        if outcomes:
            write_rows(store.outcomes(run_id), outcomes, OUTCOMES, name=batch_id)


def committed_outcomes(store: StoreLayout, run_id: str, batch_id: str) -> dict[str, str]:
    """Case ids and statuses that this batch committed; empty if it did not commit."""
    return statuses_of(store.outcomes(run_id), batch_id, OUTCOMES)


def score_row(run: Run, case: CaseRef, batch_id: str, rater: str, structure: str) -> dict[str, Any]:
    """Columns of every score row of this case, scored or not."""
    return {
        "run_id": run.run_id,
        "attempt": batch_id,
        "weights": run.weights.name,
        "weights_version": run.weights.version,
        "weights_sha256": run.weights.sha256,
        **as_row(case),
        "in_training": _saw(run.weights, case),
        "rater": rater,
        "structure": structure,
        "prompt": run.policy.canonical(),
        "prompt_id": run.prompt_id,
        "settings_id": run.settings.settings_id,
        "privileged": run.policy.privileged,
        "finished_at": utc_now(),
        "protocol": PROTOCOL_VERSION,
    }


def _saw(weights: Weights, case: CaseRef) -> bool:
    """True if the weights, or weights that they come from, learned from the case.

    Checks the marks on the case and, for shipped weights that are newer than its ingest, its digest.
    """
    if not weights.identities.isdisjoint(case.in_training):
        return True
    shipped = shipped_training_digests()
    return any(case.case_digest in shipped[known] for known in weights.identities & shipped.keys())


def unscored_rows(
    run: Run, case: CaseRef, batch_id: str, status: CaseStatus, reason: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Score rows and the outcome of a case without a score: one row per rater and structure, with the reason.

    A run that only measures has no score rows.
    """
    outcome = outcome_row(run, case, batch_id, status) | {"reason": reason}
    if run.measures:
        return [], outcome
    scores = [
        score_row(run, case, batch_id, rater, structure) | {"status": str(status), "reason": reason}
        for rater in case.raters or ("reference",)
        for structure in run.structures
    ]
    return scores, outcome


def outcome_row(run: Run, case: CaseRef, batch_id: str, status: CaseStatus) -> dict[str, Any]:
    """Columns of every outcome."""
    return {
        "run_id": run.run_id,
        "case_id": case.case_id,
        "attempt": batch_id,
        "case_digest": case.case_digest,
        "status": str(status),
        "finished_at": utc_now(),
    }


def provenance(run: Run, case: CaseRef, batch_id: str) -> dict[str, Any]:
    """Origin of a prediction, stored in its file."""
    return {
        "run_id": run.run_id,
        "attempt": batch_id,
        "case_id": case.case_id,
        "case_digest": case.case_digest,
        "weights": run.weights.name,
        "weights_sha256": run.weights.sha256,
        "prompt": run.policy.canonical(),
        "settings": run.settings.canonical(),
    }


def write_measurements(store: StoreLayout, run_id: str, batch_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add measurements of one batch; they become valid with the outcomes of the same batch."""
    if rows:
        write_rows(store.measurements(run_id), rows, MEASUREMENTS, name=batch_id)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    folder = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
