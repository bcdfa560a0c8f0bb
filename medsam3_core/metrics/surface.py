"""Distance between two surfaces: HD95, ASSD and NSD from one search for nearest neighbours.

Definitions are those of MONAI. The surface of a mask is its border voxels: those with a face neighbour outside the
mask (6 neighbours in a volume, 4 in a single slice), where outside the array counts as outside the mask. A distance
goes from the centre of a border voxel to the centre of the nearest border voxel of the other mask, in the unit of the
spacing. Both surfaces lie inside the box round both masks, so cropping to it changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medsam3_core.metrics.overlap import crop_to_union, require_masks

Axes = tuple[int, ...]
"""Axes of (z, y, x) in which a mask has neighbours: (0, 1, 2), or (1, 2) for a single slice."""

_REACH = 3  # voxels along an axis that are looked at one by one before the k-d tree is asked

_TOLERANCE_SLACK = 1e-6
"""Relative slack of the NSD tolerance: file headers keep spacings in single precision, and three steps of 0.7 mm must
not exceed 2.1 mm by a rounding error."""


@dataclass(frozen=True, slots=True, eq=False)
class SurfaceDistances:
    """Distance of every border voxel of one mask to the other surface, in the unit of the spacing.

    Attributes:
        from_reference: One value per border voxel of the reference; infinite where the prediction is empty.
        from_prediction: One value per border voxel of the prediction; infinite where the reference is empty.
    """

    from_reference: NDArray[np.float64]
    from_prediction: NDArray[np.float64]

    @property
    def defined(self) -> bool:
        """Whether both masks have a surface; else no distance between them exists."""
        return self.from_reference.size > 0 and self.from_prediction.size > 0


def surface_distances(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_zyx: Sequence[float]
) -> SurfaceDistances:
    """Search both directions once; `hd95`, `assd` and `nsd` read the answer.

    Args:
        reference: Boolean mask, shape (z, y, x), uncropped; (1, y, x) is a slice, whose faces in z are no surface.
        prediction: Boolean mask of the same shape.
        spacing_zyx: Distance between voxel centres along z, y, x.

    Raises:
        CaseDataError: If the masks are not boolean or differ in shape.
        ValueError: If the spacing is not three positive numbers.
    """
    require_masks(reference, prediction)
    if len(spacing_zyx) != 3 or not all(0 < step < np.inf for step in spacing_zyx):
        msg = f"spacing (z, y, x) needs three positive numbers, got {tuple(spacing_zyx)}"
        raise ValueError(msg)
    axes = (1, 2) if reference.shape[0] == 1 else (0, 1, 2)
    one, other = (border_voxels(mask, axes) for mask in crop_to_union(reference, prediction))
    return SurfaceDistances(
        from_reference=_distances_to_nearest(one, other, tuple(spacing_zyx), axes),
        from_prediction=_distances_to_nearest(other, one, tuple(spacing_zyx), axes),
    )


def border_voxels(mask: NDArray[np.bool_], axes: Axes) -> NDArray[np.bool_]:
    """Voxels of a mask with a face neighbour along `axes` outside it; the edge of the array is outside."""
    interior = mask.copy()
    for axis in axes:
        inner, outer = np.moveaxis(interior, axis, 0), np.moveaxis(mask, axis, 0)
        inner[1:] &= outer[:-1]
        inner[:-1] &= outer[1:]
        inner[:1] = inner[-1:] = False
    return mask & ~interior


def hd95(distances: SurfaceDistances) -> float:
    """Larger of the two directed 95th percentiles of the surface distances (linear interpolation).

    Returns:
        Distance in the unit of the spacing, 0 for equal masks; NaN if a mask is empty.
    """
    if not distances.defined:
        return float("nan")
    directed = (np.percentile(side, 95) for side in (distances.from_reference, distances.from_prediction))
    return float(max(directed))


def assd(distances: SurfaceDistances) -> float:
    """Average symmetric surface distance: the mean over the border voxels of both masks, pooled.

    Returns:
        Distance in the unit of the spacing, 0 for equal masks; NaN if a mask is empty.
    """
    if not distances.defined:
        return float("nan")
    total = distances.from_reference.sum() + distances.from_prediction.sum()
    return float(total / (distances.from_reference.size + distances.from_prediction.size))


def nsd(distances: SurfaceDistances, tolerance: float) -> float:
    """Share of both surfaces that lies within a tolerance of the other (normalised surface Dice, by border voxels).

    Args:
        distances: Answer of `surface_distances`.
        tolerance: Largest distance still counted as agreement, in the unit of the spacing.

    Returns:
        Value in [0, 1]; NaN if both masks are empty, 0.0 if exactly one is.

    Raises:
        ValueError: If the tolerance is negative.
    """
    if tolerance < 0:
        msg = f"NSD tolerance {tolerance} is negative"
        raise ValueError(msg)
    sides = (distances.from_reference, distances.from_prediction)
    voxels = sum(side.size for side in sides)
    limit = tolerance * (1 + _TOLERANCE_SLACK)
    return sum(int(np.count_nonzero(side <= limit)) for side in sides) / voxels if voxels else float("nan")


def _distances_to_nearest(
    source: NDArray[np.bool_], target: NDArray[np.bool_], spacing_zyx: tuple[float, ...], axes: Axes
) -> NDArray[np.float64]:
    """Distance of every source voxel to the nearest target voxel, in C order; infinite if there is no target.

    A fair prediction lies within a few voxels of the reference almost everywhere. So the voxels round each source
    voxel are looked at by growing distance, and only those that find no neighbour there ask a k-d tree. Measured
    against the tree alone: 2 to 4 times faster on organs and vessels, no slower on masks that lie far apart. A distance
    transform of the crop wins only where the masks are noise and lie apart as well.
    """
    padding = [(_REACH, _REACH) if axis in axes else (0, 0) for axis in range(3)]
    source, target = np.pad(source, padding), np.pad(target, padding)
    position, is_target = np.flatnonzero(source), target.reshape(-1)
    distances = np.full(position.size, np.inf)
    if not is_target.any():
        return distances
    strides = np.array([source.shape[1] * source.shape[2], source.shape[2], 1])
    steps, lengths = _steps_by_length(spacing_zyx, axes)
    far = np.arange(position.size)
    for stride, length in zip(steps @ strides, lengths, strict=True):
        near = is_target[position + stride]
        distances[far[near]] = length
        far, position = far[~near], position[~near]
        if not far.size:
            return distances
    nodes = _coordinates(np.flatnonzero(is_target), source.shape, spacing_zyx)
    tree = cKDTree(nodes, leafsize=32, balanced_tree=False, compact_nodes=False)
    distances[far] = tree.query(_coordinates(position, source.shape, spacing_zyx))[0]
    return distances


@lru_cache(maxsize=64)
def _steps_by_length(spacing_zyx: tuple[float, ...], axes: Axes) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Steps (z, y, x) within the reach and their lengths, shortest first, the zero step included.

    Only steps shorter than the shortest that leaves the reach: up to there the order has no gap, so the first hit is
    the nearest neighbour.
    """
    sides = [range(-_REACH, _REACH + 1) if axis in axes else range(1) for axis in range(3)]
    steps = np.array(list(product(*sides)), dtype=np.intp)
    lengths = np.linalg.norm(steps * np.array(spacing_zyx), axis=1)
    complete = np.flatnonzero(lengths < (_REACH + 1) * min(spacing_zyx[axis] for axis in axes))
    order = complete[np.argsort(lengths[complete], kind="stable")]
    return steps[order], lengths[order]


def _coordinates(
    position: NDArray[np.intp], shape: tuple[int, ...], spacing_zyx: tuple[float, ...]
) -> NDArray[np.float64]:
    """Positions in a flattened volume as points (z, y, x) in the unit of the spacing."""
    index_zyx = np.stack(np.unravel_index(position, shape), axis=1)
    return np.multiply(index_zyx, spacing_zyx, dtype=np.float64)
