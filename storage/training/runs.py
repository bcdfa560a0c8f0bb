"""Folders of training runs: configuration, manifest, checkpoints, log and result.

training/<id>/config.json, run.json, manifest/, balance.json, log.jsonl, curves.png, checkpoints/, weights/, bare/
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam3_core.digests import short_digest
from medsam3_core.errors import UsageError
from medsam3_core.sam3.network.network import Sam3Weights
from medsam3_core.sam3.network.small import fresh_weights, small_architecture
from medsam3_core.training.plans import FRESH, TrainingPlan
from storage.store.atomic import read_json, write_json
from storage.store.layout import StoreLayout
from storage.weights.checkpoints import read_weights, write_bare, write_hugging_face
from storage.weights.registry import find_weights, inspect_weights, is_location, require_unchanged
from storage.weights.weights import Weights

_SPEED_ONLY = ("workers", "log_every", "save_every", "keep")
"""Keys of `loop` that do not change the result."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One training run in the store.

    Attributes:
        training_id: Digest of configuration, data and base.
        folder: Folder of the run.
        data_digest: Digest of the manifest.
        base: Weights that training starts from; None for fresh ones.
    """

    training_id: str
    folder: Path
    data_digest: str
    base: Weights | None

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints, each sufficient to resume."""
        return self.folder / "checkpoints"

    @property
    def log(self) -> Path:
        """Log of losses and validations, one JSON value per line."""
        return self.folder / "log.jsonl"

    @property
    def curves(self) -> Path:
        """The log as a picture."""
        return self.folder / "curves.png"

    @property
    def weights(self) -> Path:
        """The result as a Hugging Face folder."""
        return self.folder / "weights"

    @property
    def bare(self) -> Path:
        """The result in the layout of Medical-SAM3, if requested."""
        return self.folder / "bare" / "model.safetensors"

    @property
    def record(self) -> Path:
        """Record of the finished run."""
        return self.folder / "run.json"


def training_id(plan: TrainingPlan, data_digest: str, base: Weights | None, processes: int = 1) -> str:
    """12 hex digits over everything that can change the result, including the number of processes."""
    value = plan_as_json(plan)
    if processes > 1:
        value["processes"] = processes
    value["loop"] = {key: item for key, item in value["loop"].items() if key not in _SPEED_ONLY}
    for key in ("bare", "licence", "threads"):
        value.pop(key)
    return short_digest({"plan": value, "data": data_digest, "base": base.sha256 if base else None})


def plan_as_json(plan: TrainingPlan) -> dict[str, Any]:
    """A plan as plain JSON values."""
    value: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(plan)))
    return value


def find_base(store: StoreLayout, plan: TrainingPlan) -> Weights | None:
    """The weights that a plan starts from; None for fresh ones.

    Raises:
        UsageError: If the name is unknown or a baseline.
        WeightsError: If they do not load or have changed.
    """
    if plan.base == FRESH:
        return None
    if is_location(store, plan.base):
        return inspect_weights(store, Path(plan.base).name, plan.base)
    found = find_weights(store, plan.base)
    if found.path is None:
        msg = f"base {plan.base!r} has no tensors to start from; name weights, a file or folder, or {FRESH!r}"
        raise UsageError(msg)
    require_unchanged(found)
    return found


def read_base(plan: TrainingPlan, base: Weights | None) -> Sam3Weights:
    """Tensors to start from."""
    if base is None or base.path is None:
        return fresh_weights(small_architecture(), plan.seed)
    return read_weights(base.path, base.base)


def open_run(
    store: StoreLayout, plan: TrainingPlan, data_digest: str, base: Weights | None, processes: int = 1
) -> TrainingRun:
    """Open the folder of a run and write its configuration."""
    identity = training_id(plan, data_digest, base, processes)
    run = TrainingRun(identity, store.training(f"{plan.name}-{identity}"), data_digest, base)
    write_json(run.folder / "config.json", plan_as_json(plan))
    return run


def append_log(run: TrainingRun, entry: Mapping[str, Any]) -> None:
    """Add a line to the log."""
    with run.log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, sort_keys=True) + "\n")


def read_log(run: TrainingRun) -> list[dict[str, Any]]:
    """Lines of the log; of steps that were repeated after a resume, the last ones."""
    if not run.log.is_file():
        return []
    entries = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines() if line.strip()]
    kinds = ("eval_dice", "train_runtime")  # a step may have losses, a validation and the final summary
    newest = {(entry.get("step"), *(kind in entry for kind in kinds)): entry for entry in entries}
    return sorted(newest.values(), key=lambda entry: entry.get("step", 0))


def write_result(run: TrainingRun, weights: Sam3Weights, *, bare: bool, dtype: Any) -> None:
    """Write the result as a Hugging Face folder and, if `bare`, in the layout of Medical-SAM3."""
    write_hugging_face(run.weights, weights, dtype)
    if bare:
        write_bare(run.bare, weights)


def write_bare_of_finished(run: TrainingRun) -> None:
    """Write the bare layout of a run that finished without it."""
    if not run.bare.is_file():
        write_bare(run.bare, read_weights(run.weights))


def last_checkpoint(run: TrainingRun, processes: int = 1) -> Path | None:
    """The newest complete checkpoint: the random state of every process is there.

    The Trainer writes one file of random state for a single process, and one per process for several.
    """
    states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    found = [
        folder
        for folder in run.checkpoints.glob("checkpoint-*")
        if all((folder / name).is_file() for name in ("trainer_state.json", *states))
    ]
    return max(found, key=lambda folder: int(folder.name.split("-")[1]), default=None)


def finished(run: TrainingRun) -> dict[str, Any] | None:
    """Record of a run; None unless it has finished."""
    return read_json(run.record) if run.record.is_file() and run.weights.is_dir() else None
