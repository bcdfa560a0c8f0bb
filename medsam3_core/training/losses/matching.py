"""Which query answers for which object: the official matcher, one to one (Hungarian)."""

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment

from medsam3_core.training.losses.box_overlap import corners_of, paired_iou

_CLASS_COST, _BOX_COST, _GIOU_COST = 2.0, 5.0, 2.0
_ALPHA, _GAMMA = 0.25, 2.0
_NEVER = 1e6


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of queries and objects over a batch of prompts.

    Attributes:
        prompt: Prompt of each pair, int64, shape (m,).
        query: Query of each pair, shape (m,).
        target: Object of each pair, as position in the list of all objects of the batch, shape (m,).
    """

    prompt: torch.Tensor
    query: torch.Tensor
    target: torch.Tensor


def match_one_to_one(
    logits: torch.Tensor, boxes_cxcywh: torch.Tensor, target_boxes: torch.Tensor, counts: list[int]
) -> Matches:
    """The cheapest assignment of every object to a query of its own.

    The cost is 2 x focal class cost + 5 x L1 of the boxes - 2 x generalised IoU. Prompts without objects have no pairs;
    of more objects than queries the cheapest are matched.

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
