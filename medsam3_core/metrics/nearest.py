"""Search for the nearest border voxel of the other mask, the basis of all surface distances."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medsam3_core.metrics.mask_pairs import FRAME, Axes, MaskPair
from medsam3_core.metrics.surface import SurfaceDistances

_LOOKS_AT_ONCE = 1 << 14  # neighbours looked up in one call; above, a loop that stops early is faster


def surface_distances(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_zyx: Sequence[float]
) -> SurfaceDistances:
    """Distances in both directions, the input of `hd95`, `assd` and `nsd`.

    Args:
        reference: Boolean mask, shape (z, y, x), uncropped; (1, y, x) is a slice, whose faces in z are not surface.
        prediction: Boolean mask of the same shape.
        spacing_zyx: Distance between voxel centres along z, y, x.

    Raises:
        CaseDataError: If the masks are not boolean or differ in shape.
        ValueError: If the spacing is not three positive numbers.
    """
    return pair_distances(MaskPair.of(reference, prediction), spacing_zyx)


def pair_distances(pair: MaskPair, spacing_zyx: Sequence[float]) -> SurfaceDistances:
    """Same as `surface_distances`, for masks that are checked and cropped already.

    Raises:
        ValueError: If the spacing is not three positive numbers.
    """
    if len(spacing_zyx) != 3 or not all(0 < step < np.inf for step in spacing_zyx):
        msg = f"spacing (z, y, x) needs three positive numbers, got {tuple(spacing_zyx)}"
        raise ValueError(msg)
    grid = _FramedGrid(pair.reference.shape, tuple(spacing_zyx), pair.axes)
    borders = grid.border(pair.reference), grid.border(pair.prediction)
    reference, prediction = (border.nonzero()[0] for border in borders)
    return SurfaceDistances(
        from_reference=grid.distances(reference, prediction, borders[1]),
        from_prediction=grid.distances(prediction, reference, borders[0]),
    )


@dataclass(frozen=True, slots=True)
class _FramedGrid:
    """A framed grid as one row of voxels: a step to a neighbour is an offset, which the frame keeps in bounds."""

    shape: tuple[int, ...]
    spacing_zyx: tuple[float, ...]
    axes: Axes

    @property
    def strides(self) -> tuple[int, int, int]:
        """Offsets from a voxel to the next along z, y, x."""
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

    def distances(
        self, places: NDArray[np.intp], targets: NDArray[np.intp], is_target: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Distance of every voxel to the nearest target voxel; infinite if there is no target.

        Most predictions lie within a few voxels of the reference almost everywhere. So the voxels around each position
        are searched by increasing distance; only those without a target there query a k-d tree. Measured against the
        tree alone: 2 to 4 times faster on organs and vessels, no slower on masks that lie far apart. A distance
        transform of the crop is faster only for masks of noise that also lie apart.

        Args:
            places: Voxels by their position in the row.
            targets: Target voxels by their position in the row.
            is_target: The same targets as a mask of the row.
        """
        found = np.full(places.size, np.inf)
        if not targets.size:
            return found
        far, strides = np.arange(found.size), np.array(self.strides)
        for steps, length in _steps_by_length(self.spacing_zyx, self.axes):
            near = _any_neighbour(places, steps @ strides, is_target)
            found[far[near]] = length
            far, places = far[~near], places[~near]
            if not far.size:
                return found
        tree = cKDTree(self._points(targets), leafsize=32, balanced_tree=False, compact_nodes=False)
        found[far] = tree.query(self._points(places))[0]
        return found

    def _points(self, places: NDArray[np.intp]) -> NDArray[np.float64]:
        """Voxels as points (z, y, x) in the unit of the spacing."""
        index_zyx = np.stack(np.unravel_index(places, self.shape), axis=1)
        return np.multiply(index_zyx, self.spacing_zyx, dtype=np.float64)


def _any_neighbour(
    places: NDArray[np.intp], strides: NDArray[np.intp], is_target: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """True for each place from which one of the steps leads to a target."""
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
    """Steps (z, y, x) that stay in the frame, grouped by length, and their length; the shortest first.

    Only steps shorter than the shortest that leaves the frame: up to that length none is missing, so the first hit is
    the nearest neighbour.
    """
    sides = [range(-FRAME, FRAME + 1) if axis in axes else range(1) for axis in range(3)]
    steps = np.array(list(product(*sides)), dtype=np.intp)
    lengths = np.linalg.norm(steps * np.array(spacing_zyx), axis=1)
    within = lengths < (FRAME + 1) * min(spacing_zyx[axis] for axis in axes)
    return tuple((steps[within & (lengths == length)], float(length)) for length in np.unique(lengths[within]))
