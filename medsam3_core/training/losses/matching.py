"""The official one-to-one matcher of queries and objects (Hungarian), and overlap of boxes.

In names, xyxy means corners, cxcywh centre and size.
"""

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment

_CLASS_COST, _BOX_COST, _GIOU_COST = 2.0, 5.0, 2.0
_ALPHA, _GAMMA = 0.25, 2.0
_NEVER = 1e6


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of queries and objects over a batch of prompts.

    Attributes:
        prompt: Prompt of each pair, int64, shape (m,).
        query: Query of each pair, shape (m,).
        target: Object of each pair, its position among all objects of the batch, shape (m,).
    """

    prompt: torch.Tensor
    query: torch.Tensor
    target: torch.Tensor


def match_one_to_one(
    logits: torch.Tensor, boxes_cxcywh: torch.Tensor, target_boxes: torch.Tensor, counts: list[int]
) -> Matches:
    """The cheapest assignment of objects to queries, one to one.

    The cost is 2 x focal class cost + 5 x L1 of the boxes - 2 x generalised IoU. Prompts without objects have no pairs.
    With more objects than queries, the cheapest are matched.

    Args:
        logits: Shape (prompts, queries).
        boxes_cxcywh: Shape (prompts, queries, 4).
        target_boxes: Boxes of all objects, cxcywh, prompt after prompt, shape (n, 4).
        counts: Objects of each prompt; adds up to n.
    """
    with torch.no_grad():
        chance = logits.float().sigmoid()
        positive = -_ALPHA * (1 - chance) ** _GAMMA * (chance + 1e-8).log()
        negative = -(1 - _ALPHA) * chance**_GAMMA * (1 - chance + 1e-8).log()
        class_cost = positive - negative
        pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        start = 0
        for prompt, count in enumerate(counts):
            if count:
                wanted = target_boxes[start : start + count].float()
                cost = _cost(class_cost[prompt], boxes_cxcywh[prompt].float(), wanted)
                query, target = (torch.as_tensor(one) for one in linear_sum_assignment(cost.cpu().numpy()))
                pairs.append((torch.full_like(query, prompt), query, target + start))
            start += count
    return _joined(pairs, logits.device)


def corners_of(boxes_cxcywh: torch.Tensor) -> torch.Tensor:
    """Corners (..., 4) of boxes given by centre and size."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def paired_iou(first_xyxy: torch.Tensor, second_xyxy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU and generalised IoU of boxes that broadcast against each other, shape (..., 4) each."""
    low, high = (first_xyxy[..., :2], second_xyxy[..., :2]), (first_xyxy[..., 2:], second_xyxy[..., 2:])
    shared = _area(torch.cat([torch.maximum(*low), torch.minimum(*high)], dim=-1))
    joint = _area(first_xyxy) + _area(second_xyxy) - shared
    hull = _area(torch.cat([torch.minimum(*low), torch.maximum(*high)], dim=-1))
    iou = shared / joint.clamp(min=1e-9)
    return iou, iou - (hull - joint) / hull.clamp(min=1e-9)


def _area(boxes_xyxy: torch.Tensor) -> torch.Tensor:
    sides = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def _cost(class_cost: torch.Tensor, boxes: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    distance = torch.cdist(boxes, wanted, p=1)
    _, giou = paired_iou(corners_of(boxes)[:, None], corners_of(wanted)[None])
    cost = _CLASS_COST * class_cost[:, None] + _BOX_COST * distance - _GIOU_COST * giou
    return torch.nan_to_num(cost, nan=_NEVER, posinf=_NEVER, neginf=-_NEVER)


def _joined(pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], device: torch.device) -> Matches:
    if not pairs:
        none = torch.zeros(0, dtype=torch.long, device=device)
        return Matches(none, none, none)
    prompt, query, target = (torch.cat(one).to(device) for one in zip(*pairs, strict=True))
    return Matches(prompt, query, target)
