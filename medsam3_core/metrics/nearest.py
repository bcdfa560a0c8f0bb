"""Search for the nearest border voxel of the other mask, on which all surface distances rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medsam3_core.metrics.mask_pairs import FRAME, Axes, MaskPair
from medsam3_core.metrics.surface import SurfaceDistances

_LOOKS_AT_ONCE = 1 << 14  # neighbours looked up in one call; more of them than this and stopping early is worth a loop


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
    return pair_distances(MaskPair.of(reference, prediction), spacing_zyx)


def pair_distances(pair: MaskPair, spacing_zyx: Sequence[float]) -> SurfaceDistances:
    """As `surface_distances`, of masks that are checked and cropped already.

    Raises:
        ValueError: If the spacing is not three positive numbers.
    """
    if len(spacing_zyx) != 3 or not all(0 < step < np.inf for step in spacing_zyx):
        msg = f"spacing (z, y, x) needs three positive numbers, got {tuple(spacing_zyx)}"
        raise ValueError(msg)
    grid = _FramedGrid(pair.reference.shape, tuple(spacing_zyx), pair.axes)
    masks = grid.border(pair.reference), grid.border(pair.prediction)
    one, other = (_Border(mask, mask.nonzero()[0]) for mask in masks)
    return SurfaceDistances(from_reference=grid.distances(one, other), from_prediction=grid.distances(other, one))


@dataclass(frozen=True, slots=True, eq=False)
class _Border:
    """Border voxels of a framed mask laid out as one row: where they are, and their places."""

    is_border: NDArray[np.bool_]
    places: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _FramedGrid:
    """A framed grid as one long row of voxels: a step to a neighbour is a number, and the frame catches its end."""

    shape: tuple[int, ...]
    spacing_zyx: tuple[float, ...]
    axes: Axes

    @property
    def strides(self) -> tuple[int, int, int]:
        """Places from a voxel to the next along z, y, x."""
        return self.shape[1] * self.shape[2], self.shape[2], 1

    def border(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Voxels of a framed mask with a face neighbour outside it, as one row."""
        row = mask.reshape(-1)
        interior = row.copy()
        for stride in (self.strides[axis] for axis in self.axes):
            interior[stride:] &= row[:-stride]
            interior[:-stride] &= row[stride:]
        border: NDArray[np.bool_] = row ^ interior
        return border

    def distances(self, source: _Border, target: _Border) -> NDArray[np.float64]:
        """Distance of every source voxel to the nearest target voxel; infinite if there is no target.

        A fair prediction lies within a few voxels of the reference almost everywhere. So the voxels round each
        position are looked at by growing distance, and only those that find no neighbour there ask a k-d tree. Measured
        against the tree alone: 2 to 4 times faster on organs and vessels, no slower on masks that lie far apart. A
        distance transform of the crop wins only where the masks are noise and lie apart as well.
        """
        found = np.full(source.places.size, np.inf)
        if not target.places.size:
            return found
        far, places, strides = np.arange(found.size), source.places, np.array(self.strides)
        for steps, length in _steps_by_length(self.spacing_zyx, self.axes):
            near = _any_neighbour(places, steps @ strides, target.is_border)
            found[far[near]] = length
            far, places = far[~near], places[~near]
            if not far.size:
                return found
        tree = cKDTree(self._points(target.places), leafsize=32, balanced_tree=False, compact_nodes=False)
        found[far] = tree.query(self._points(places))[0]
        return found

    def _points(self, places: NDArray[np.intp]) -> NDArray[np.float64]:
        """Voxels as points (z, y, x) in the unit of the spacing."""
        index_zyx = np.stack(np.unravel_index(places, self.shape), axis=1)
        return np.multiply(index_zyx, self.spacing_zyx, dtype=np.float64)


def _any_neighbour(
    places: NDArray[np.intp], strides: NDArray[np.intp], is_target: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether one of these steps leads from each place to a target."""
    if places.size * strides.size <= _LOOKS_AT_ONCE:
        looks: NDArray[np.bool_] = is_target[strides[:, np.newaxis] + places].any(axis=0)
        return looks
    near: NDArray[np.bool_] = is_target[places + strides[0]]
    for stride in strides[1:]:
        rest = np.flatnonzero(~near)
        near[rest] = is_target[places[rest] + stride]
    return near


@lru_cache(maxsize=64)
def _steps_by_length(spacing_zyx: tuple[float, ...], axes: Axes) -> tuple[tuple[NDArray[np.intp], float], ...]:
    """Steps (z, y, x) that stay in the frame, those of one length together, and their length; the shortest first.

    Only steps shorter than the shortest that leaves the frame: up to there the order has no gap, so the first hit is
    the nearest neighbour.
    """
    sides = [range(-FRAME, FRAME + 1) if axis in axes else range(1) for axis in range(3)]
    steps = np.array(list(product(*sides)), dtype=np.intp)
    lengths = np.linalg.norm(steps * np.array(spacing_zyx), axis=1)
    within = lengths < (FRAME + 1) * min(spacing_zyx[axis] for axis in axes)
    return tuple((steps[within & (lengths == length)], float(length)) for length in np.unique(lengths[within]))
