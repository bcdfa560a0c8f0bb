"""Turn logits into masks: select, interpolate the logits in chunks, then threshold."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import masks_to_boxes

_CHUNK_FLOATS = 2**26
"""Interpolated logits per chunk: 256 MB in float32."""
MAX_MASK_PIXELS = 2**32
"""Maximum pixels of all masks of one result: 4 GB as booleans."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Raw result of one prompt on one slice, on the device.

    Attributes:
        mask_logits: Shape (n, h, w) at the size of the mask head.
        scores: Shape (n,), in [0, 1].
        boxes_xyxy: Shape (n, 4), in fractions of the slice.
        semantic_logits: Shape (h, w), if the head has them.
        presence: Probability that the concept is on the slice; scores include it.
    """

    mask_logits: torch.Tensor
    scores: torch.Tensor
    boxes_xyxy: torch.Tensor
    semantic_logits: torch.Tensor | None = None
    presence: float = 0.0

    def above(self, threshold: float) -> "Detections":
        """Detections with a score above a threshold, by falling score."""
        order = torch.argsort(self.scores, descending=True, stable=True)
        return self._take(order[self.scores[order] > threshold])

    def first(self, count: int) -> "Detections":
        """The first `count` detections."""
        return self._take(torch.arange(min(count, len(self.scores)), device=self.scores.device))

    def _take(self, index: torch.Tensor) -> "Detections":
        return replace(
            self, mask_logits=self.mask_logits[index], scores=self.scores[index], boxes_xyxy=self.boxes_xyxy[index]
        )


def mask_limit(shape_yx: tuple[int, int]) -> int:
    """Maximum masks of this size in one result."""
    return max(1, MAX_MASK_PIXELS // (shape_yx[0] * shape_yx[1]))


def masks_at(mask_logits: torch.Tensor, shape_yx: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks (n, y, x) at the size of the slice from logits (n, h, w): interpolate, then threshold at 0.

    Interpolating probabilities would change 5e-5 of the pixels.
    """
    height, width = shape_yx
    masks = np.empty((len(mask_logits), height, width), dtype=bool)
    step = max(1, _CHUNK_FLOATS // (height * width))
    for start in range(0, len(mask_logits), step):
        drawn = logits_at(mask_logits[start : start + step], shape_yx) > 0
        masks[start : start + step] = drawn.cpu().numpy()
    return masks


def logits_at(mask_logits: torch.Tensor, shape_yx: tuple[int, int]) -> torch.Tensor:
    """Logits at the size of the slice, float32, shape (n, y, x)."""
    resized = torch.nn.functional.interpolate(
        mask_logits[:, None].float(), size=shape_yx, mode="bilinear", align_corners=False
    )
    return resized[:, 0]


def boxes_of(mask_logits: torch.Tensor) -> torch.Tensor:
    """Bounding boxes of non-empty masks, (n, h, w), in fractions of the slice: float32, shape (n, 4), xyxy."""
    height, width = mask_logits.shape[-2:]
    inclusive: torch.Tensor = masks_to_boxes(mask_logits > 0)
    upper = torch.tensor([0.0, 0.0, 1.0, 1.0], device=inclusive.device)
    return (inclusive + upper) / torch.tensor([width, height, width, height], device=inclusive.device)


def boxes_in_pixels(boxes_xyxy: torch.Tensor, shape_yx: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes in pixels of the slice, float32, shape (n, 4)."""
    height, width = shape_yx
    scale = torch.tensor([width, height, width, height], dtype=torch.float32, device=boxes_xyxy.device)
    pixels: NDArray[np.float32] = (boxes_xyxy.float() * scale).cpu().numpy()
    return pixels
