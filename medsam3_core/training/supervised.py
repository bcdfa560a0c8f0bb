"""The trained module: SAM3 with its losses, one trunk pass for both heads."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from medsam3_core.training.batches import TrainingBatch
from medsam3_core.training.data.samples import InteractivePrompt
from medsam3_core.training.losses.concept_objective import concept_losses
from medsam3_core.training.losses.interactive_objective import InteractiveObjective, InteractiveWeights
from medsam3_core.training.losses.losses import LossWeights
from medsam3_core.training.trainees.trainee import Trainee


class SupervisedSam3(nn.Module):
    """A trainee that returns the loss of a batch; `click_weight` weighs the interactive against the concept head."""

    def __init__(
        self, trainee: Trainee, weights: LossWeights, clicks: InteractiveWeights, click_weight: float = 5.0
    ) -> None:
        super().__init__()
        self.trainee = trainee
        self._weights = weights
        self._click_weight = click_weight
        self._clicks: InteractiveObjective | None = None
        if trainee.tracker is not None and trainee.tracker_neck is not None:
            self._clicks = InteractiveObjective(trainee.tracker, trainee.tracker_neck, clicks)

    def forward(self, batch: TrainingBatch) -> dict[str, torch.Tensor]:
        """Loss and its parts, each detached, under the names of the log."""
        trunk = self.trainee.trunk(batch.pixels)
        concept = batch.concept
        answers = self.trainee.answer_concepts(
            trunk,
            concept.slice_index,
            concept.input_ids,
            concept.attention_mask,
            concept.boxes_cxcywh,
            concept.box_labels,
        )
        losses = concept_losses(answers, concept, self._weights)
        total = torch.stack([*losses.values()]).sum()
        parts = {name: value.detach() for name, value in losses.items()}
        if self._clicks is not None and batch.clicks:
            shown, clicks = _clicked_slices(trunk, batch.clicks)
            # In bf16 a click would move by several pixels; inference runs this head in fp32 too.
            with torch.autocast(trunk.device.type, enabled=False):
                clicked = self._clicks(shown.float(), clicks, np.random.default_rng(batch.seed))
            total = total + self._click_weight * clicked.total
            parts |= {f"click_{name}": torch.tensor(value) for name, value in clicked.parts.items()}
        return {"loss": total, **parts}


def _clicked_slices(
    trunk: torch.Tensor, clicks: tuple[InteractivePrompt, ...]
) -> tuple[torch.Tensor, list[InteractivePrompt]]:
    """The clicked slices alone, since the neck of the interactive head is the slowest part of a step."""
    wanted = sorted({one.slice_index for one in clicks})
    moved = {number: position for position, number in enumerate(wanted)}
    return trunk[wanted], [replace(one, slice_index=moved[one.slice_index]) for one in clicks]
