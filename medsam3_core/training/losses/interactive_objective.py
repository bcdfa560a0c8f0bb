"""Objective of the interactive head: the mask of the prompted object, and an estimate of its IoU.

Objects run through the same function as in inference, grouped by kind of prompt, so that padding is the same. Trunk
features are an argument: one trunk pass serves this and the concept loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.nn import functional

from medsam3_core.errors import WeightsError
from medsam3_core.sam3.network.encoder import maps_of, tracker_maps
from medsam3_core.sam3.network.interactive import answer_objects, mask_prompt_logits
from medsam3_core.sam3.network.propagation_tracker import PropagationTracker
from medsam3_core.sam3.tensors.postprocess import logits_at
from medsam3_core.sam3.tensors.transformers_internals import Sam3VisionNeck
from medsam3_core.training.data.interactive_prompts import random_pixels, with_points
from medsam3_core.training.data.samples import InteractivePrompt

_MAX_POINTS = 8
"""Objects with this many points get no further corrections."""
_ALPHA, _GAMMA = 0.25, 2.0

Maps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class InteractiveWeights:
    """Weights of the losses, in the proportions of SAM, and shares of prompts with extra answers.

    Attributes:
        focal: Focal loss, a mean over pixels.
        dice: Dice loss.
        iou: Distance of estimated and true IoU, for every candidate.
        presence: Presence of the object.
        p_correct: Share of clicked objects with a second round: a click on an error of the first answer.
        p_candidates: Share of boxes and masks that train three candidates too: inference uses them if the single answer
            is unstable.
    """

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    presence: float = 1.0
    p_correct: float = 0.3
    p_candidates: float = 0.25


@dataclass(frozen=True, eq=False)
class ObjectLosses:
    """Losses per object, each of shape (n,).

    Attributes:
        focal: Focal loss of the best candidate.
        dice: Dice loss of the best candidate.
        iou: Distance of estimated and true IoU, mean over candidates.
        presence: Cross-entropy of the logit that the object is present.
        true_iou: IoU of the candidate that inference would choose; no gradient.
        chosen: That candidate at the size of the reference, boolean, shape (n, y, x).
    """

    focal: torch.Tensor
    dice: torch.Tensor
    iou: torch.Tensor
    presence: torch.Tensor
    true_iou: torch.Tensor
    chosen: torch.Tensor

    def weighted(self, weights: InteractiveWeights) -> torch.Tensor:
        """Total loss per object."""
        masks = weights.focal * self.focal + weights.dice * self.dice
        return masks + weights.iou * self.iou + weights.presence * self.presence


@dataclass(frozen=True, eq=False)
class InteractiveLoss:
    """Losses over some objects, each a mean.

    Attributes:
        total: Loss to minimise.
        parts: Its unweighted parts, and `true_iou`, the mean IoU of the candidates that inference would choose.
        objects: Number of answers.
    """

    total: torch.Tensor
    parts: dict[str, float] = field(default_factory=dict)
    objects: int = 0


class InteractiveObjective:
    """Loss of the interactive head over objects of a batch of slices; trains tracker and neck in place.

    Raises:
        WeightsError: If prompt encoder and image have different tables of positions.
    """

    def __init__(
        self, tracker: PropagationTracker, neck: Sam3VisionNeck, weights: InteractiveWeights | None = None
    ) -> None:
        require_shared_positions(tracker)
        self._tracker = tracker
        self._neck = neck
        self._weights = InteractiveWeights() if weights is None else weights

    def __call__(
        self, trunk: torch.Tensor, prompts: Sequence[InteractivePrompt], rng: np.random.Generator
    ) -> InteractiveLoss:
        """Mean loss over the objects of a batch with trunk maps (b, c, grid, grid); 0 without any.

        `rng` chooses the objects with a second round.
        """
        if not prompts:
            return InteractiveLoss(trunk.new_zeros((), requires_grad=True))
        maps = tracker_maps(self._tracker, maps_of(self._neck, trunk))
        first = self._answer(maps, prompts, rng)
        corrected = [one for group, losses in first for one in self._corrections(group, losses, rng)]
        rounds = [losses for _, losses in first + self._answer(maps, corrected, rng)]
        total = torch.cat([losses.weighted(self._weights) for losses in rounds])
        return InteractiveLoss(total.mean(), loss_means(rounds), len(total))

    def _answer(
        self, maps: Maps, prompts: Sequence[InteractivePrompt], rng: np.random.Generator
    ) -> list[tuple[list[InteractivePrompt], ObjectLosses]]:
        """Answer prompts, grouped by kind."""
        groups: dict[tuple[int, bool, bool], list[InteractivePrompt]] = {}
        for prompt in prompts:
            # Clicks are ambiguous: inference takes the best of three for them alone.
            ambiguous = bool(np.isin(prompt.point_labels, (0, 1)).any()) or rng.random() < self._weights.p_candidates
            key = (len(prompt.point_labels), prompt.mask_input is not None, ambiguous)
            groups.setdefault(key, []).append(prompt)
        answered = []
        for (_, drawn, ambiguous), group in groups.items():
            index = torch.tensor([one.slice_index for one in group], device=maps[0].device)
            masks, iou, present = answer_objects(
                self._tracker,
                (maps[0][index], maps[1][index], maps[2][index]),
                torch.from_numpy(np.stack([one.points_xy for one in group])),
                torch.from_numpy(np.stack([one.point_labels for one in group]).astype(np.int32)),
                _drawn(group, self._tracker.grid) if drawn else None,
                multimask=ambiguous,
            )
            wanted = torch.from_numpy(np.stack([one.mask for one in group])).to(masks.device)
            answered.append((group, object_losses(masks, iou, present, wanted)))
        return answered

    def _corrections(
        self, group: list[InteractivePrompt], losses: ObjectLosses, rng: np.random.Generator
    ) -> list[InteractivePrompt]:
        """Prompts with one more click, on an error of the answer, for some of the clicked objects."""
        corrected = []
        for prompt, answer in zip(group, losses.chosen.cpu().numpy(), strict=True):
            clicks = len(prompt.point_labels)
            wrong = answer != prompt.mask
            if not 0 < clicks < _MAX_POINTS or rng.random() >= self._weights.p_correct or not wrong.any():
                continue
            ((x, y),) = random_pixels(wrong, 1, rng)
            inside = int(prompt.mask[int(y), int(x)])
            points = [*((float(px), float(py)) for px, py in prompt.points_xy), (x, y)]
            shown = with_points(prompt, points, [*prompt.point_labels.tolist(), inside])
            corrected.append(replace(shown, mask_input=answer if answer.any() else None))
        return corrected


def object_losses(masks: torch.Tensor, iou: torch.Tensor, present: torch.Tensor, wanted: torch.Tensor) -> ObjectLosses:
    """Losses of candidates against references; only the best candidate learns the mask.

    Args:
        masks: Mask logits, shape (n, m, h, w).
        iou: Estimated IoU, shape (n, m).
        present: Logit that the object is present, shape (n,).
        wanted: Reference, boolean, shape (n, y, x); all False for an absent object.
    """
    count, candidates = masks.shape[:2]
    shape_yx = (wanted.shape[1], wanted.shape[2])
    each = wanted[:, None].expand(-1, candidates, -1, -1).flatten(0, 1)
    with torch.no_grad():
        resized = logits_at(masks.flatten(0, 1), shape_yx)
        true_iou = _iou(resized > 0, each).reshape(count, candidates)
        best = _mask_loss(resized, each).reshape(count, candidates).argmin(dim=1)
        picked = iou.argmax(dim=1)
    rows = torch.arange(count, device=masks.device)
    logits = logits_at(masks[rows, best], shape_yx) if candidates > 1 else logits_at(masks[:, 0], shape_yx)
    there = wanted.flatten(1).any(dim=1).float()
    return ObjectLosses(
        focal_per_mask(logits, wanted) * there,
        dice_per_mask(logits, wanted) * there,
        (iou - true_iou).abs().mean(dim=1) * there,
        functional.binary_cross_entropy_with_logits(present.float(), there, reduction="none"),
        true_iou[rows, picked],
        resized.reshape(count, candidates, *shape_yx)[rows, picked] > 0,
    )


def focal_per_mask(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Focal loss (alpha 0.25, gamma 2) of masks (n, y, x), averaged over pixels: shape (n,)."""
    target = wanted.float()
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    missed = 1 - torch.exp(-entropy)
    balance = _ALPHA * target + (1 - _ALPHA) * (1 - target)
    return (balance * missed**_GAMMA * entropy).mean(dim=(1, 2))


def dice_per_mask(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Dice loss of masks (n, y, x), smoothed by one pixel: shape (n,)."""
    chance, target = logits.sigmoid(), wanted.float()
    overlap, both = (chance * target).sum(dim=(1, 2)), (chance + target).sum(dim=(1, 2))
    return 1 - (2 * overlap + 1) / (both + 1)


def require_shared_positions(tracker: PropagationTracker) -> None:
    """Reject a tracker with different position tables for clicks and image.

    Raises:
        WeightsError: If the tables differ; the official weights have one.
    """
    image = tracker.shared_image_embedding.positional_embedding
    clicks = tracker.prompt_encoder.shared_embedding.positional_embedding
    if not torch.equal(image, clicks):
        msg = (
            "shared_image_embedding.positional_embedding and prompt_encoder.shared_embedding.positional_embedding "
            "differ; they must be one table of standard normal numbers: draw it once and use it for both"
        )
        raise WeightsError(msg)


def _mask_loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Loss that ranks candidates, independent of the weights of the losses."""
    return 20 * focal_per_mask(logits, wanted) + dice_per_mask(logits, wanted)


def _iou(drawn: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    shared, either = (drawn & wanted).flatten(1).sum(dim=1), (drawn | wanted).flatten(1).sum(dim=1)
    return shared / either.clamp(min=1)


def _drawn(group: list[InteractivePrompt], grid: int) -> torch.Tensor:
    masks = [one.mask_input for one in group if one.mask_input is not None]
    return torch.stack([mask_prompt_logits(mask, 4 * grid) for mask in masks])


def loss_means(rounds: list[ObjectLosses]) -> dict[str, float]:
    """Mean of each part over all objects, for the log."""
    names = ("focal", "dice", "iou", "presence", "true_iou")
    return {name: float(torch.cat([getattr(one, name).detach() for one in rounds]).mean()) for name in names}
