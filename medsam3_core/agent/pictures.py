"""What is shown of a slice where pixels may be shared: the slice or a part of it, with outlines over it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsam3_core.errors import UsageError

_COLOURS = np.array([[230, 60, 60], [60, 200, 80], [70, 120, 240], [240, 200, 40], [220, 80, 220]], dtype=np.uint8)
_LONGEST_SIDE = 1024
"""Larger pictures are thinned: a model reads no more."""


def outlined(pixels: NDArray[np.uint8], labels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """A copy of a slice, (y, x, 3), with the outline of every object in its colour."""
    shown = pixels.copy()
    for number in np.unique(labels[labels > 0]):
        mask = labels == number
        shown[mask & ~ndimage.binary_erosion(mask)] = _COLOURS[(int(number) - 1) % len(_COLOURS)]
    return shown


def crop_of(pixels: NDArray[np.uint8], box_xyxy: Sequence[float] | None) -> NDArray[np.uint8]:
    """The part of a slice inside a box, thinned to at most 1024 pixels a side.

    Raises:
        UsageError: If the box is empty or leaves the slice.
    """
    if box_xyxy is not None:
        x0, y0, x1, y1 = (round(edge) for edge in box_xyxy)
        height, width = pixels.shape[:2]
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            msg = f"box {x0},{y0},{x1},{y1} is empty or leaves the slice of {width} x {height} pixels"
            raise UsageError(msg)
        pixels = pixels[y0:y1, x0:x1]
    step = -(-max(pixels.shape[:2]) // _LONGEST_SIDE)
    return pixels[::step, ::step]
