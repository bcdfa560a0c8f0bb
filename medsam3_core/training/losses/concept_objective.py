"""Loss of the concept head on a batch of prompts: all decoder layers, masks and the semantic head."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from medsam3_core.sam3.network.concept import padded_boxes
from medsam3_core.sam3.tensors.tokenizer import TextTokenizer
from medsam3_core.training.data.samples import TrainingPrompt
from medsam3_core.training.losses.losses import LossWeights, box_losses, class_loss, mask_losses, presence_loss
from medsam3_core.training.losses.matching import Matches, match_one_to_one
from medsam3_core.training.trainees.trainee import ConceptAnswers

Losses = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class ConceptBatch:
    """Prompts and targets as tensors.

    Attributes:
        slice_index: Slice of each prompt, shape (p,).
        input_ids: Shape (p, 32).
        attention_mask: Shape (p, 32).
        boxes_cxcywh: Exemplars, padded, shape (p, k, 4).
        box_labels: 1, 0, or -10 for padding, shape (p, k).
        counts: Objects of each prompt.
        target_boxes: cxcywh of all objects, prompt after prompt, shape (n, 4).
        target_masks: Covered share of each cell of the mask head, shape (n, h, w).
        target_semantic: Union of the objects of each prompt, shape (p, h, w).
    """

    slice_index: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    boxes_cxcywh: torch.Tensor
    box_labels: torch.Tensor
    counts: list[int]
    target_boxes: torch.Tensor
    target_masks: torch.Tensor
    target_semantic: torch.Tensor

    def to(self, device: Any, non_blocking: bool = False) -> "ConceptBatch":
        """Copy on another device."""
        tensors: dict[str, Any] = {
            field.name: value.to(device, non_blocking=non_blocking)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return replace(self, **tensors)


def concept_batch(prompts: Sequence[TrainingPrompt], tokenizer: TextTokenizer, mask_side: int) -> ConceptBatch:
    """Collate at least one prompt; `mask_side` is the side of the mask head."""
    tokens = [tokenizer(prompt.text) for prompt in prompts]
    boxes, labels = padded_boxes([(prompt.boxes_cxcywh, prompt.box_labels) for prompt in prompts])
    masks = [_covered(prompt.masks, mask_side) for prompt in prompts]
    semantic = [_covered(np.any(prompt.masks, axis=0, keepdims=True), mask_side) for prompt in prompts]
    return ConceptBatch(
        torch.tensor([prompt.slice_index for prompt in prompts]),
        torch.cat([one.input_ids for one in tokens]),
        torch.cat([one.attention_mask for one in tokens]),
        boxes,
        labels,
        [len(prompt.masks) for prompt in prompts],
        torch.from_numpy(np.concatenate([boxes_of_masks(prompt.masks) for prompt in prompts])),
        torch.cat(masks),
        torch.cat(semantic),
    )


def boxes_of_masks(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Tight boxes, cxcywh in fractions of the side, float32 (n, 4), of non-empty masks (n, y, x)."""
    height, width = masks.shape[-2:]
    edges = []
    for axis, size in ((1, width), (2, height)):
        hit: NDArray[np.bool_] = np.any(masks, axis=axis)
        first, last = hit.argmax(axis=1), size - hit[:, ::-1].argmax(axis=1)
        edges.append(((first + last) / 2 / size, (last - first) / size))
    (cx, w), (cy, h) = edges
    return np.stack([cx, cy, w, h], axis=1).astype(np.float32)


def concept_losses(answers: ConceptAnswers, batch: ConceptBatch, weights: LossWeights) -> Losses:
    """Weighted losses of the concept head: class, presence and box on all layers, masks on the last."""
    losses: Losses = {}
    for layer in range(len(answers.logits)):
        logits, boxes = answers.logits[layer], answers.boxes_cxcywh[layer]
        matches = match_one_to_one(logits, boxes, batch.target_boxes, batch.counts)
        objects = matched_divisors(matches, batch, weights)
        l1, giou = box_losses(boxes, batch.target_boxes, matches, objects)
        classes = class_loss(logits, boxes, batch.target_boxes, matches, batch.counts, weights)
        presence = presence_loss(answers.presence[layer], batch.counts)
        for name, value in (
            ("class", weights.classes * classes),
            ("presence", weights.presence * presence),
            ("box", weights.box * l1),
            ("giou", weights.giou * giou),
        ):
            losses[name] = losses.get(name, 0.0) + value
    found = answers.masks[matches.prompt, matches.query]
    focal, dice = mask_losses(found, batch.target_masks[matches.target], objects)
    losses["mask"], losses["dice"] = weights.mask * focal, weights.dice * dice
    prompts = float(len(batch.counts))
    focal, dice = mask_losses(answers.semantic, batch.target_semantic, prompts, alpha=0.6)
    losses["semantic_focal"], losses["semantic_dice"] = weights.semantic_focal * focal, weights.semantic_dice * dice
    return losses


def matched_divisors(matches: Matches, batch: ConceptBatch, weights: LossWeights) -> float | torch.Tensor:
    """Divisor of the losses of each matched object, so that objects or prompts count equally."""
    if not weights.prompts_alike:
        return float(max(1, len(batch.target_boxes)))
    counts = torch.tensor(batch.counts, dtype=torch.float32, device=matches.prompt.device)
    return counts[matches.prompt] * (counts > 0).sum()


def _covered(masks: NDArray[np.bool_], side: int) -> torch.Tensor:
    """Covered share of every cell of a side x side grid, float32."""
    pixels = torch.from_numpy(masks).float()[:, None]
    if pixels.shape[0] == 0:
        return torch.zeros(0, side, side)
    return functional.interpolate(pixels, (side, side), mode="area")[:, 0]
