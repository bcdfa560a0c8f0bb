"""Turn slices into the official model input: resize to a square in uint8, then scale."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from medsam3_core.errors import CaseDataError

MAX_PIXELS = 64 * 1024 * 1024
"""Maximum pixels of a slice, since its masks have its size."""


def pixel_values(images: Sequence[NDArray[np.uint8]], resolution: int) -> torch.Tensor:
    """Model input, float32 (n, 3, resolution, resolution) in [-1, 1], of slices, uint8 (y, x, 3) of any size.

    The resize runs on uint8 with antialiasing, as in the official code. A float resize differs by up to one grey level,
    one without antialiasing by a quarter of the range.
    """
    side = [resolution, resolution]
    squares = [
        transforms.resize(_channels_first(image), side, interpolation=InterpolationMode.BILINEAR, antialias=True)
        for image in images
    ]
    scaled: torch.Tensor = transforms.to_dtype(torch.stack(squares), torch.float32, scale=True)
    return (scaled - 0.5) / 0.5


def require_slice(image: NDArray[np.uint8]) -> None:
    """Check type, shape and size of a slice.

    Raises:
        CaseDataError: If it is not uint8 (y, x, 3), is empty, or has more than `MAX_PIXELS` pixels.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        msg = f"slice is {image.dtype} of shape {image.shape}; SAM3 takes uint8 of shape (y, x, 3), windowed beforehand"
        raise CaseDataError(msg)
    height, width = image.shape[:2]
    if height * width > MAX_PIXELS:
        msg = (
            f"slice of {width} x {height} pixels is over the limit of {MAX_PIXELS} pixels; "
            "split it or store it at a lower magnification"
        )
        raise CaseDataError(msg)


def _channels_first(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
