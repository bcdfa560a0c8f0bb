"""The training loop: the `transformers` Trainer with our batches, optimiser and validation."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from medsam3_core.errors import TrainingError
from medsam3_core.sam3.tensors.transformers_internals import use_one_device
from medsam3_core.training.batches import Collate, SampleStream
from medsam3_core.training.plans import LoopPlan
from medsam3_core.training.supervised import SupervisedSam3
from medsam3_core.training.trainees.optimiser import OptimiserPlan, parameter_groups, rate_factor

Validate = Callable[[SupervisedSam3], dict[str, float]]
"""Measures a model; `dice` decides."""
VALIDATION_DICE = "dice"


class Fit(Trainer):
    """The Trainer of `transformers`, with accelerate, checkpoints and exact resume.

    Samples come in the order of their numbers; they are already random, each from its own seed.
    """

    def __init__(
        self,
        model: SupervisedSam3,
        stream: SampleStream,
        collate: Collate,
        folder: Path,
        loop: LoopPlan,
        optimiser: OptimiserPlan,
        callbacks: list[TrainerCallback],
        *,
        seed: int = 0,
        validate: Validate | None = None,
        validate_every: int = 0,
        patience: int = 0,
    ) -> None:
        self._plan, self._validate = optimiser, validate
        self._parts: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}
        arguments = training_arguments(folder, loop, optimiser, seed, validate_every if validate is not None else 0)
        if validate is not None and patience:
            callbacks = [*callbacks, Patience(early_stopping_patience=patience)]
        super().__init__(
            model,
            arguments,
            data_collator=collate,
            train_dataset=stream,
            eval_dataset=stream if validate is not None else None,  # required, but unused
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)  # we write the log

    optimizer: Any
    lr_scheduler: Any
    control: Any

    def create_optimizer(self, model: Any = None) -> Any:
        """Create AdamW with a rate per part of the model."""
        if self.optimizer is None:
            layers = self.model.trainee.architecture.detector.vision_config.backbone_config.num_hidden_layers
            groups, betas = parameter_groups(self.model, self._plan, layers), (0.9, self._plan.beta2)
            # Fused: a third of the time per step on a CPU with many small tensors.
            self.optimizer = torch.optim.AdamW(groups, lr=self._plan.rate, betas=betas, eps=1e-8, fused=True)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the schedule of the plan."""
        if self.lr_scheduler is None:
            factor = partial(rate_factor, plan=self._plan, steps=num_training_steps)
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """Take the loss from the model and its parts for the log."""
        outputs = model(**inputs)
        if not torch.isfinite(outputs["loss"]):
            parts = ", ".join(f"{name} {float(value):.3g}" for name, value in outputs.items() if name != "loss")
            msg = (
                f"the loss of step {self.state.global_step + 1} is not finite ({parts}): training has diverged; lower "
                f"optimiser.rate or optimiser.clip; delete {self.args.output_dir} if the last checkpoint diverged too"
            )
            raise TrainingError(msg)
        for name, value in outputs.items():
            if name != "loss":
                self._parts[name] = self._parts.get(name, 0.0) + value.detach()
                self._counts[name] = self._counts.get(name, 0) + 1
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the loss parts since the last line."""
        if "loss" in logs and self._parts:
            logs = logs | {name: round(float(self._parts[name]) / self._counts[name], 5) for name in self._parts}
            self._parts, self._counts = {}, {}
        super().log(logs, start_time)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Validate with the product's segmenter and scoring instead of a loss.

        The best model so far is always saved, and so is the step at which patience ends.
        """
        assert self._validate is not None
        found = self._validate(self.accelerator.unwrap_model(self.model))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        best = self.state.best_metric
        if best is None or found[VALIDATION_DICE] > best or self.control.should_training_stop:
            self.control.should_save = True
        return metrics

    def go_on(self, checkpoint: Path | None) -> None:
        """Train from the start or from a checkpoint; do nothing if patience ended at the checkpoint."""
        state = None if checkpoint is None else TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state is not None and Patience.has_ended(state):
            self.state = state
            return
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
        return SequentialSampler(cast(SampleStream, train_dataset or self.train_dataset))


class Patience(EarlyStoppingCallback):
    """Stops after a number of validations without improvement; checkpoints store the count."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Skip a warning about the best model, which `load_best` loads."""

    @classmethod
    def has_ended(cls, state: TrainerState) -> bool:
        """True if training had stopped at a checkpoint."""
        kept = state.stateful_callbacks.get(cls.__name__)
        return kept is not None and (
            kept["attributes"]["early_stopping_patience_counter"] >= kept["args"]["early_stopping_patience"]
        )


def training_arguments(
    folder: Path, loop: LoopPlan, optimiser: OptimiserPlan, seed: int, validate_every: int
) -> TrainingArguments:
    """Translate the plan for `transformers`; `validate_every` 0 never validates.

    A process uses one device; a launcher starts one process per GPU.
    """
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=loop.steps,
        per_device_train_batch_size=loop.batch,
        gradient_accumulation_steps=loop.accumulate,
        learning_rate=optimiser.rate,
        weight_decay=optimiser.weight_decay,
        max_grad_norm=optimiser.clip,
        bf16=loop.bf16,
        use_cpu=not torch.cuda.is_available(),
        dataloader_num_workers=loop.workers,
        dataloader_prefetch_factor=4 if loop.workers else None,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        label_names=[],
        logging_steps=loop.log_every,
        save_steps=loop.save_every,
        save_total_limit=loop.keep,
        eval_strategy="steps" if validate_every else "no",
        eval_steps=validate_every or None,
        metric_for_best_model=f"eval_{VALIDATION_DICE}" if validate_every else None,
        greater_is_better=True if validate_every else None,
        ddp_find_unused_parameters=True,
        seed=seed,
        data_seed=seed,
        report_to=[],
        disable_tqdm=True,
        log_level="warning",
        logging_nan_inf_filter=False,
        restore_callback_states_from_checkpoint=True,
    )
    use_one_device(arguments)
    return arguments


def load_best(fit: Fit) -> SupervisedSam3:
    """Load the model of the best validation; the last one without validation.

    Raises:
        TrainingError: If the checkpoint of the best validation is missing.
    """
    model: SupervisedSam3 = fit.accelerator.unwrap_model(fit.model)
    best = best_checkpoint(fit)
    if best is not None:
        if not (best / "model.safetensors").is_file():
            msg = f"{best}: the checkpoint of the best validation is missing; delete {best.parent} and train again"
            raise TrainingError(msg)
        model.load_state_dict(load_file(best / "model.safetensors"))
    return model


def best_checkpoint(fit: Fit) -> Path | None:
    """Checkpoint of the best validation; None without validation."""
    step = fit.state.best_global_step
    return Path(str(fit.args.output_dir)) / f"checkpoint-{step}" if step else None
