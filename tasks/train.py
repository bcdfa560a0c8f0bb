"""Train: from a plan and the cohorts of the store to weights in the registry."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch
from transformers import TrainerCallback

from medsam3_core.capabilities import Capabilities
from medsam3_core.errors import UsageError
from medsam3_core.sam3.segmenter import Sam3Segmenter
from medsam3_core.training.batches import Collate, SampleStream, SliceGroup
from medsam3_core.training.data.augmentation_plan import augmentation_for, handedness
from medsam3_core.training.data.concept_prompts import texts_of_nothing
from medsam3_core.training.fit import Fit, best_checkpoint, load_best
from medsam3_core.training.plans import TrainingPlan, ValidationPlan
from medsam3_core.training.supervised import SupervisedSam3
from medsam3_core.training.trainees.trainee import Trainee
from medsam3_core.training.validation import ValidationCase, validate
from storage.store.atomic import write_json
from storage.store.layout import StoreLayout
from storage.training.curves import write_curves
from storage.training.manifest import TrainingCohort, build_manifest, select_cases, write_manifest
from storage.training.marks import mark_training_cases
from storage.training.runs import (
    TrainingRun,
    append_log,
    find_base,
    finished,
    last_checkpoint,
    open_run,
    read_base,
    read_log,
    write_bare_of_finished,
    write_result,
)
from storage.training.slices import read_training_slices, validation_case
from storage.weights.registry import inspect_weights, register_weights, require_free_name

Say = Callable[[dict[str, Any]], None]
"""Shows one line of the log during training."""


def train_weights(store: StoreLayout, plan: TrainingPlan, say: Say) -> dict[str, Any]:
    """Train weights by a plan and register them; an interrupted run resumes.

    Returns:
        The record of the run: `weights`, `version`, `sha256`, `folder`, `data_digest`, `validation`, ...

    Raises:
        UsageError: If the plan does not match the store, or a case belongs to a benchmark.
    """
    require_free_name(plan.name)
    cohorts = select_cases(store, plan)
    base = find_base(store, plan)
    manifest = build_manifest(store, cohorts)
    run = open_run(store, plan, manifest.digest, base, processes())
    if (known := finished(run)) is not None:
        if plan.bare and first_process():
            write_bare_of_finished(run)
        return known
    if first_process():
        write_manifest(run.folder / "manifest", manifest)
        write_json(run.folder / "balance.json", manifest.balance())
    if plan.threads:
        torch.set_num_threads(plan.threads)
    torch.set_flush_denormal(True)
    trainer = _trainer(store, plan, run, cohorts, say)
    trainer.go_on(last_checkpoint(run, processes()))
    model = load_best(trainer)
    if first_process():
        dtype = torch.bfloat16 if plan.half else torch.float32
        write_result(run, model.trainee.weights(), bare=plan.bare, dtype=dtype)
        _register(store, plan, run, cohorts, trainer)
    trainer.accelerator.wait_for_everyone()
    record = finished(run)
    assert record is not None
    return record


def _trainer(
    store: StoreLayout, plan: TrainingPlan, run: TrainingRun, cohorts: Sequence[TrainingCohort], say: Say
) -> Fit:
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    weights = read_base(plan, run.base)
    trainee = Trainee(weights, device, lora=plan.lora, gradient_checkpointing=plan.loop.gradient_checkpointing)
    architecture = weights.architecture
    groups = _groups(store, plan, cohorts, architecture.resolution)
    stream = SampleStream(groups, plan.seed, plan.loop.steps * plan.loop.batch * plan.loop.accumulate * processes())
    side, mask_side = architecture.resolution, 4 * architecture.grid
    collate = Collate(plan.questions, side, mask_side, weights.interactive, weights.vocabulary)
    cases = [validation_case(store, case, cohort.recipe) for cohort in cohorts for case in cohort.validation]
    every = plan.validation.every if cases else 0
    if every:
        _require_askable(plan.validation, interactive=weights.interactive)
    return Fit(
        SupervisedSam3(trainee, plan.losses, plan.click_losses, plan.click_weight),
        stream,
        collate,
        run.checkpoints,
        plan.loop,
        plan.optimiser,
        [LogToRun(run, say)],
        seed=plan.seed,
        validate=partial(_validated, plan, cases) if every else None,
        validate_every=every,
        patience=plan.validation.patience,
    )


def _groups(store: StoreLayout, plan: TrainingPlan, cohorts: Sequence[TrainingCohort], side: int) -> list[SliceGroup]:
    texts = {cohort.plan.cohort: {text for one in cohort.concepts for text in one.texts} for cohort in cohorts}
    groups = []
    for cohort in cohorts:
        recipe, asked = cohort.recipe, cohort.plan
        words = [word for one in cohort.concepts for word in (one.name, *one.structures, *one.texts)]
        mirror, upright = handedness(words, recipe.modality)
        fine = any(one.tubular or one.instances for one in recipe.structures)
        augmentation = augmentation_for(
            recipe.modality, side=side, mirror=mirror, upright=upright, fine=fine, base=asked.augmentation
        )
        slices = [
            seen
            for case in cohort.train
            for seen in read_training_slices(store, case, recipe, cohort.concepts, every=asked.every)
        ]
        nothing = texts_of_nothing(
            texts[asked.cohort],
            {text for found in texts.values() for text in found},
            plan.questions.foreign,
            unlabelled=asked.unlabelled,
            repeat=plan.questions.others_repeat,
        )
        groups.append(SliceGroup(slices, asked.share, augmentation, nothing, asked.empty_share))
    return groups


def _require_askable(validation: ValidationPlan, *, interactive: bool) -> None:
    """Refuse validation policies that the weights do not accept, before training."""
    can = Capabilities(text=True, box=True, interactive=interactive)
    for policy in validation.policies():
        if lacking := policy.lacking(can):
            msg = f"validation.prompts: {policy.short()} needs {', '.join(lacking)}, which the base lacks; leave it out"
            raise UsageError(msg)


def _validated(plan: TrainingPlan, cases: Sequence[ValidationCase], model: SupervisedSam3) -> dict[str, float]:
    segmenter = Sam3Segmenter(model.trainee.weights(), str(next(model.parameters()).device))
    return validate(segmenter, cases, plan.validation.policies(), plan.validation.inference())


def _register(
    store: StoreLayout, plan: TrainingPlan, run: TrainingRun, cohorts: Sequence[TrainingCohort], trainer: Fit
) -> None:
    """Register the weights with parents, configuration and data digest; mark their training cases."""
    parents = () if run.base is None else (f"{run.base.name}@{run.base.version}:{run.base.sha256}",)
    inspected = inspect_weights(store, plan.name, run.weights)
    cases = [case for cohort in cohorts for case in (*cohort.train, *cohort.validation)]
    mark_training_cases(store, cases, inspected.sha256)  # first: registered weights may be benchmarked at once
    added = register_weights(store, replace(inspected, note=plan.licence, parents=parents, training=run.training_id))
    log, best = read_log(run), best_checkpoint(trainer)
    write_curves(run.curves, log, plan.name)
    record = {
        "weights": added.name,
        "version": added.version,
        "sha256": added.sha256,
        "parents": parents,
        "training_id": run.training_id,
        "data_digest": run.data_digest,
        "folder": str(run.folder),
        "processes": processes(),
        "steps": trainer.state.global_step,
        "best": trainer.state.best_metric,
        "best_checkpoint": "" if best is None else best.name,
        "validations": [entry for entry in log if "eval_dice" in entry],
        "cases": {cohort.plan.cohort: len(cohort.train) for cohort in cohorts},
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(run.record, record)


class LogToRun(TrainerCallback):
    """Writes the log into the folder of the run and redraws its curves."""

    def __init__(self, run: TrainingRun, say: Say) -> None:
        self._run, self._say = run, say

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Write one line."""
        if logs and state.is_world_process_zero:
            entry = {"step": state.global_step, "steps": state.max_steps} | logs
            append_log(self._run, entry)
            self._say(entry)
            if "eval_dice" in logs:
                write_curves(self._run.curves, read_log(self._run), self._run.folder.name)


def processes() -> int:
    """Number of processes that train together, as set by the launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first_process() -> bool:
    """True in the process that writes, registers and prints."""
    return os.environ.get("RANK", "0") == "0"
