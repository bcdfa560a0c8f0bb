"""Pairs of masks on one grid: checked once and cropped to the bounding box of both, the input of all metrics.

Voxels outside that box cannot change an overlap or a surface distance. A frame of background lets the metrics look up
neighbours without bounds checks.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medsam3_core.errors import CaseDataError

FRAME = 3
"""Voxels of background around the box, along every axis in which a mask has neighbours."""

Axes = tuple[int, ...]
"""Axes of (z, y, x) in which a mask has neighbours: (0, 1, 2), or (1, 2) for a single slice."""


@dataclass(frozen=True, slots=True, eq=False)
class MaskPair:
    """A reference and a prediction, cropped and framed.

    Attributes:
        reference: Boolean, contiguous, shape (z, y, x) of the box of both masks and its frame.
        prediction: The same for the prediction.
        axes: Axes that are framed; a single slice has no neighbours in z, a flat mask in a volume has.
        n_voxels: Voxels of the whole grid.
    """

    reference: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    axes: Axes
    n_voxels: int

    @classmethod
    def of(cls, reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> Self:
        """Crop and frame two masks, shape (z, y, x).

        Raises:
            CaseDataError: If the masks are not boolean or differ in shape.
        """
        require_masks(reference, prediction)
        axes = (1, 2) if reference.shape[0] == 1 else (0, 1, 2)
        one, other = crop_to_union(reference, prediction)
        return cls(_framed(one, axes), _framed(other, axes), axes, reference.size)


def require_masks(reference: NDArray[Any], prediction: NDArray[Any]) -> None:
    """Refuse anything but two boolean masks of one shape (z, y, x).

    Raises:
        CaseDataError: If a dtype is not bool, the shapes differ, or they are not three-dimensional.
    """
    if reference.dtype != np.bool_ or prediction.dtype != np.bool_:
        msg = f"masks must be boolean, got reference {reference.dtype} and prediction {prediction.dtype}"
        raise CaseDataError(msg)
    if reference.shape != prediction.shape:
        msg = f"reference has shape {reference.shape}, prediction {prediction.shape}; both must be on the same grid"
        raise CaseDataError(msg)
    if reference.ndim != 3:
        msg = f"masks need the shape (z, y, x), got {reference.shape}; a single slice is (1, y, x)"
        raise CaseDataError(msg)


def crop_to_union(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Views (z, y, x) of both masks on the smallest box that holds both; of size 0 if both are empty."""
    z = _extent(_any(reference, 1, 2) | _any(prediction, 1, 2))
    plane = _any(reference[z] | prediction[z], 0)
    box = (z, _extent(_any(plane, 1)), _extent(_any(plane, 0)))
    return reference[box], prediction[box]


def _any(mask: NDArray[np.bool_], *axes: int) -> NDArray[np.bool_]:
    return np.asarray(mask.any(axis=axes), dtype=np.bool_)


def _extent(occupied: NDArray[np.bool_]) -> slice:
    where = occupied.nonzero()[0]
    return slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(0, 0)


def _framed(mask: NDArray[np.bool_], axes: Axes) -> NDArray[np.bool_]:
    return np.pad(mask, [(FRAME, FRAME) if axis in axes else (0, 0) for axis in range(3)])
