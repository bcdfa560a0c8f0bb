"""Official training losses of SAM3's concept head, equal to the golden values."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from medsam3_core.sam3.tensors.postprocess import logits_at
from medsam3_core.training.losses.matching import Matches, corners_of, paired_iou


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the losses and shape of the class target; the defaults are the official recipe.

    Attributes:
        classes: Soft binary cross-entropy of the query scores.
        presence: Presence of the concept on the slice.
        box: L1 distance of the boxes in fractions of the side.
        giou: Generalised IoU.
        mask: Focal loss of instance masks.
        dice: Dice loss of instance masks.
        semantic_focal: Focal loss of the semantic mask.
        semantic_dice: Dice loss of the semantic mask.
        positive: Weight of a matched query relative to an unmatched one.
        score_exponent: e in the target of a matched query, p ** e x IoU ** (1 - e).
        least_target: Minimum target of a matched query.
        queries: Minimum divisor of the mean class loss over queries.
        prompts_alike: Average boxes and masks over the objects of each prompt, then over prompts. The official mean is
            over all objects of the batch, in which one image of 60 nuclei counts as much as 60 organs.
    """

    classes: float = 20.0
    presence: float = 20.0
    box: float = 5.0
    giou: float = 2.0
    mask: float = 200.0
    dice: float = 10.0
    semantic_focal: float = 20.0
    semantic_dice: float = 30.0
    positive: float = 10.0
    score_exponent: float = 0.25
    least_target: float = 0.01
    queries: int = 200
    prompts_alike: bool = False


def box_losses(
    boxes_cxcywh: torch.Tensor, target_boxes: torch.Tensor, matches: Matches, objects: float | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """L1 and generalised-IoU loss of matched boxes, each divided by the number of objects and summed.

    Boxes of queries have shape (prompts, queries, 4), those of objects (n, 4). `objects` may be a number per pair.
    """
    found = boxes_cxcywh[matches.prompt, matches.query].float()
    wanted = target_boxes[matches.target].float()
    _, giou = paired_iou(corners_of(found), corners_of(wanted))
    return ((found - wanted).abs().sum(dim=1) / objects).sum(), ((1 - giou) / objects).sum()


def class_loss(
    logits: torch.Tensor,
    boxes_cxcywh: torch.Tensor,
    target_boxes: torch.Tensor,
    matches: Matches,
    counts: list[int],
    weights: LossWeights,
) -> torch.Tensor:
    """IoU-aware binary cross-entropy, a mean over all queries; prompts without object count as 0.

    The target of a matched query mixes its probability and its IoU. That of an unmatched one is 0, with less weight the
    closer it is.
    """
    logits = logits.float()
    with torch.no_grad():
        chance = logits.sigmoid()
        found = corners_of(boxes_cxcywh[matches.prompt, matches.query].float())
        iou, _ = paired_iou(found, corners_of(target_boxes[matches.target].float()))
        exponent = weights.score_exponent
        aim = chance[matches.prompt, matches.query] ** exponent * iou ** (1 - exponent)
        matched, target = torch.zeros_like(logits), torch.zeros_like(logits)
        matched[matches.prompt, matches.query] = 1.0
        target[matches.prompt, matches.query] = aim.clamp(min=weights.least_target)
    positive = functional.binary_cross_entropy_with_logits(logits, target, reduction="none") * matched
    negative = functional.binary_cross_entropy_with_logits(logits, matched, reduction="none") * (1 - matched)
    # The official factor is not detached: the gradient also flows through p ** 2.
    loss = weights.positive * positive + negative * logits.sigmoid() ** 2
    present = torch.tensor([float(count > 0) for count in counts], device=logits.device)
    return (loss * present[:, None]).sum() / (len(counts) * max(logits.shape[1], weights.queries))


def presence_loss(presence_logits: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Presence loss per prompt: half of a binary cross-entropy, from the official alpha."""
    present = torch.tensor([float(count > 0) for count in counts], device=presence_logits.device)
    logits = presence_logits.float().reshape(-1)
    return 0.5 * functional.binary_cross_entropy_with_logits(logits, present)


def mask_losses(
    mask_logits: torch.Tensor,
    target_masks: torch.Tensor,
    objects: float | torch.Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Focal and Dice loss of paired masks, averaged over pixels, divided by `objects`, summed.

    Args:
        mask_logits: Shape (n, h, w); resized to the target first.
        target_masks: Boolean or float, shape (n, y, x).
        objects: Number of objects of the batch, at least 1, or a number per mask.
        alpha: Weight of the foreground in the focal loss.
        gamma: Focusing exponent: reduces the weight of correct pixels.
    """
    target = target_masks.float().flatten(1)
    logits = logits_at(mask_logits, (target_masks.shape[1], target_masks.shape[2])).flatten(1)
    chance = logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = chance * (1 - target) + (1 - chance) * target
    balance = alpha * target + (1 - alpha) * (1 - target)
    focal = ((balance * entropy * wrong**gamma).mean(dim=1) / objects).sum()
    overlap = 1 - (2 * (chance * target).sum(1) + 1) / (chance.sum(1) + target.sum(1) + 1)
    return focal, (overlap / objects).sum()
