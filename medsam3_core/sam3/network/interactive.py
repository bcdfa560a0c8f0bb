"""The interactive head: one mask per object from points, a box or a drawn mask."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medsam3_core.errors import UsageError
from medsam3_core.prompts.prompts import BoxPrompt, SlicePrompt
from medsam3_core.sam3.network.architecture import Architecture
from medsam3_core.sam3.network.encoder import TrackerFeatures
from medsam3_core.sam3.network.network import TRACKER_DTYPE
from medsam3_core.sam3.network.propagation_tracker import PropagationTracker

_CORNERS = (2, 3)
"""Labels of the upper left and lower right corner of a box; 1 and 0 are clicks inside and outside."""
MASK_LOGIT = 10.0
"""Logit of a drawn mask: +10 inside, -10 outside."""


@dataclass(frozen=True, eq=False)
class Clicks:
    """One object as input of the prompt encoder.

    Attributes:
        coordinates: float32, shape (k, 2), x and y in pixels of the model's square.
        labels: int32, shape (k,): 1 inside, 0 outside, 2 and 3 the corners of a box.
        mask_logits: Shape (4 * grid, 4 * grid), if a mask is given.
        multimask: True to choose the best of three candidates, as the official predictor does by default; a box or a
            mask alone is unambiguous and has one.
    """

    coordinates: torch.Tensor
    labels: torch.Tensor
    mask_logits: torch.Tensor | None = None
    multimask: bool = False


@dataclass(frozen=True, eq=False)
class InteractiveAnswer:
    """Candidates for one object: mask logits (m, h, w), estimated IoU (m,), logit that the object is present."""

    mask_logits: torch.Tensor
    iou: torch.Tensor
    object_logit: torch.Tensor

    @property
    def best(self) -> tuple[torch.Tensor, float]:
        """Mask logits and estimated IoU of the best candidate."""
        index = int(self.iou.argmax())
        return self.mask_logits[index], float(self.iou[index].clamp(0, 1))


def object_clicks(prompt: SlicePrompt, shape_yx: tuple[int, int], architecture: Architecture) -> list[Clicks]:
    """Split a prompt into objects: the i-th box, point set and mask form one.

    Raises:
        UsageError: If a box is negative, or boxes, point sets and masks differ in number.
    """
    return [_clicks(one, shape_yx, architecture) for one in prompt.objects()]


def answer_clicks(tracker: PropagationTracker, features: TrackerFeatures, clicks: Clicks) -> InteractiveAnswer:
    """Run the interactive head on one object."""
    masks, iou, object_logits = answer_objects(
        tracker,
        features.maps,
        clicks.coordinates[None],
        clicks.labels[None],
        None if clicks.mask_logits is None else clicks.mask_logits[None],
        multimask=clicks.multimask,
    )
    return InteractiveAnswer(masks[0], iou[0], object_logits[0])


def answer_objects(
    tracker: PropagationTracker,
    maps: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    coordinates: torch.Tensor,
    labels: torch.Tensor,
    mask_logits: torch.Tensor | None,
    *,
    multimask: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run the interactive head once over objects with the same kinds of prompts.

    Args:
        tracker: The head.
        maps: Feature maps per object, finest first, each (n, c, h, w), as `tracker_features` gives them.
        coordinates: Shape (n, k, 2), x and y in pixels of the model's square; k may be 0 with a mask.
        labels: Shape (n, k), see `Clicks`.
        mask_logits: Shape (n, 4 * grid, 4 * grid), or None.
        multimask: True for three candidates.

    Returns:
        Mask logits (n, m, h, w), estimated IoU (n, m) and the logit that the object is present (n,).
    """
    fine, middle, coarse = maps
    device, count = coarse.device, len(labels)
    if labels.shape[1] == 0:  # a mask alone still needs a padding point
        coordinates, labels = torch.zeros(count, 1, 2), torch.full((count, 1), -1, dtype=torch.int32)
    sparse, dense = tracker.prompt_encoder(
        input_points=coordinates.to(device)[:, None],
        input_labels=labels.to(device)[:, None],
        input_boxes=None,
        input_masks=None if mask_logits is None else mask_logits.to(device)[:, None],
    )
    masks, iou, _, object_logits = tracker.mask_decoder(
        # The embedding for "no memory" is added to the coarsest map.
        image_embeddings=coarse + tracker.no_memory_embedding.reshape(1, -1, 1, 1),
        image_positional_embeddings=tracker.get_image_wide_positional_embeddings().expand(count, -1, -1, -1),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
        high_resolution_features=[fine, middle],
    )
    return masks[:, 0], iou[:, 0], object_logits.reshape(-1)


def mask_prompt_logits(mask: NDArray[np.bool_], side: int) -> torch.Tensor:
    """Convert a drawn mask to logits of shape (side, side)."""
    drawn = torch.from_numpy(np.asarray(mask, dtype=np.float32))[None, None]
    logits = (2 * drawn - 1) * MASK_LOGIT
    resized = torch.nn.functional.interpolate(
        logits, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )
    return resized[0, 0]


def _clicks(prompt: SlicePrompt, shape_yx: tuple[int, int], architecture: Architecture) -> Clicks:
    """One object: at most one box, one point set and one mask."""
    corners = [corner for box in prompt.boxes for corner in _corners(box)]
    points = [point for one in prompt.points for point in one]
    height, width = shape_yx
    scale = torch.tensor([architecture.resolution / width, architecture.resolution / height])
    xy = torch.tensor([*corners, *((point.x, point.y) for point in points)], dtype=TRACKER_DTYPE).reshape(-1, 2)
    labels = [*(_CORNERS if corners else ()), *(int(point.positive) for point in points)]
    logits = mask_prompt_logits(prompt.masks[0].mask, 4 * architecture.grid) if prompt.masks else None
    return Clicks(xy * scale, torch.tensor(labels, dtype=torch.int32), logits, bool(points))


def _corners(box: BoxPrompt) -> list[tuple[float, float]]:
    if not box.positive:
        msg = "the interactive head does not accept negative boxes; mark regions to exclude with negative points"
        raise UsageError(msg)
    return [(box.x0, box.y0), (box.x1, box.y1)]
