"""IoU and generalised IoU of boxes as tensors, in any unit; xyxy means corners, cxcywh centre and size."""

import torch


def corners_of(boxes_cxcywh: torch.Tensor) -> torch.Tensor:
    """Corners (..., 4) of boxes given by centre and size."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def paired_iou(first_xyxy: torch.Tensor, second_xyxy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU and generalised IoU of boxes that broadcast against each other, shape (..., 4) each."""
    shared = _area(_span(torch.maximum, torch.minimum, first_xyxy, second_xyxy))
    joint = _area(first_xyxy) + _area(second_xyxy) - shared
    hull = _area(_span(torch.minimum, torch.maximum, first_xyxy, second_xyxy))
    iou = shared / joint.clamp(min=1e-9)
    return iou, iou - (hull - joint) / hull.clamp(min=1e-9)


def _span(low, high, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
    return torch.cat([low(first[..., :2], second[..., :2]), high(first[..., 2:], second[..., 2:])], dim=-1)


def _area(boxes_xyxy: torch.Tensor) -> torch.Tensor:
    sides = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]
