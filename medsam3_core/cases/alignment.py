"""Exact placement of label maps on the grid of an image, also if axes are permuted or flipped or a part is covered.

Nothing is interpolated: if the voxel centres of the two grids do not coincide, the label map is refused.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import ShapeMismatchError

_TOLERANCE_VOXELS = 0.02
"""Maximum distance of voxel centres that coincide; float32 headers and rounded cosines stay far below."""


def place_on(labels: NDArray[Any], source: VolumeGeometry, target: VolumeGeometry) -> NDArray[Any]:
    """Labels (z, y, x) of `source` on the grid of `target`; background outside the source.

    Raises:
        ShapeMismatchError: If the grids do not coincide, do not meet, or labels lie outside the target.
    """
    axes, signs, first = _index_map(source, target)
    turned = labels.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
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
    """True if both have the same voxel centres, in any order."""
    try:
        axes, _, first = _index_map(source, target)
    except ShapeMismatchError:
        return False
    return tuple(source.shape_zyx[axis] for axis in axes) == target.shape_zyx and first == [0, 0, 0]


def _index_map(source: VolumeGeometry, target: VolumeGeometry) -> tuple[list[int], list[int], list[int]]:
    """Source axis, direction and lowest target index of the source, for each target axis.

    Raises:
        ShapeMismatchError: If source indices are not whole target indices.
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
    axes = [int(np.abs(linear[i]).argmax()) for i in range(3)]
    signs = [int(linear[i, axes[i]]) for i in range(3)]
    return axes, signs, [int(start[i]) - (int(last[axes[i]]) if signs[i] < 0 else 0) for i in range(3)]
