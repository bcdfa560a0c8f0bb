"""Label maps on the grid of an image, but in another order, turned, or over a part of it: put in place exactly.

Nothing is interpolated: where the voxel centres of the two grids do not coincide, there is no exact answer and the
label map is refused.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import ShapeMismatchError

_TOLERANCE_VOXELS = 0.02
"""Largest distance of two voxel centres that count as one; float32 headers and rounded cosines stay far below."""


def place_on(labels: NDArray[Any], source: VolumeGeometry, target: VolumeGeometry) -> NDArray[Any]:
    """Labels (z, y, x) of `source` on the grid of `target`; background where the source does not reach.

    Raises:
        ShapeMismatchError: If the grids do not coincide, do not meet, or labels lie outside the target.
    """
    axes, signs, start = _index_map(source, target)
    turned = labels.transpose(axes)
    turned = turned[tuple(slice(None, None, sign) for sign in signs)]
    first = [int(start[i]) - (turned.shape[i] - 1 if signs[i] < 0 else 0) for i in range(3)]
    placed = np.zeros(target.shape_zyx, dtype=labels.dtype)
    into, out_of = [], []
    for low, size, limit in zip(first, turned.shape, target.shape_zyx, strict=True):
        into.append(slice(max(0, low), max(0, min(limit, low + size))))
        out_of.append(slice(max(0, -low), max(0, min(size, limit - low))))
    inside = turned[tuple(out_of)]
    if inside.size == 0 or np.count_nonzero(inside) != np.count_nonzero(labels):
        outside = int(np.count_nonzero(labels)) - int(np.count_nonzero(inside))
        msg = f"{outside} labelled voxels lie outside the image; find the image that the label map was drawn on"
        raise ShapeMismatchError(msg)
    placed[tuple(into)] = inside
    return placed


def is_same_grid(source: VolumeGeometry, target: VolumeGeometry) -> bool:
    """Whether both hold the same voxel centres, in whatever order."""
    try:
        axes, signs, start = _index_map(source, target)
    except ShapeMismatchError:
        return False
    shape = tuple(source.shape_zyx[axis] for axis in axes)
    first = [int(start[i]) - (shape[i] - 1 if signs[i] < 0 else 0) for i in range(3)]
    return shape == target.shape_zyx and first == [0, 0, 0]


def _index_map(
    source: VolumeGeometry, target: VolumeGeometry
) -> tuple[tuple[int, ...], tuple[int, ...], NDArray[np.float64]]:
    """Source axis and direction for each target axis, and the target index of source voxel (0, 0, 0).

    Raises:
        ShapeMismatchError: If source indices are no whole target indices.
    """
    own, other = (np.asarray(item.affine_zyx_to_ras_mm, dtype=np.float64) for item in (source, target))
    exact = np.linalg.solve(other, own)
    linear, start = np.rint(exact[:3, :3]), np.rint(exact[:3, 3])
    is_turn = bool((np.abs(linear).sum(axis=0) == 1).all() and (np.abs(linear).sum(axis=1) == 1).all())
    last = np.array(source.shape_zyx) - 1
    corners = np.array([[z, y, x] for z in (0, last[0]) for y in (0, last[1]) for x in (0, last[2])], dtype=np.float64)
    moved = corners @ (exact[:3, :3] - linear).T + (exact[:3, 3] - start)
    if not is_turn or source.unit != target.unit or np.abs(moved).max() > _TOLERANCE_VOXELS:
        msg = (
            f"the grid {source.shape_zyx} {source.affine_zyx_to_ras_mm} does not coincide with that of the image "
            f"{target.shape_zyx} {target.affine_zyx_to_ras_mm}; resample the label map onto the image"
        )
        raise ShapeMismatchError(msg)
    axes = tuple(int(np.abs(linear[i]).argmax()) for i in range(3))
    return axes, tuple(int(linear[i, axes[i]]) for i in range(3)), start
