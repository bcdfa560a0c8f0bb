"""Measurements of masks: size, position, side, intensity."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.agent.vocabulary.vocabulary import Side
from medsam3_core.cases.geometry import LengthUnit, VolumeGeometry

MAX_LISTED = 20
"""Maximum objects listed one by one."""

Mask = NDArray[np.bool_]


def size_of(mask: Mask, geometry: VolumeGeometry) -> dict[str, Any]:
    """Voxels and volume in ml, or area in mm2 for a single slice; voxels alone without a known spacing."""
    voxels = int(np.count_nonzero(mask))
    if geometry.unit is not LengthUnit.MILLIMETRE:
        return {"voxels": voxels}
    if geometry.is_2d:
        return {"voxels": voxels, "area_mm2": round(voxels * geometry.voxel_volume, 1)}
    return {"voxels": voxels, "volume_ml": round(voxels * geometry.voxel_volume / 1000, 3)}


def object_facts(mask: Mask, geometry: VolumeGeometry) -> dict[str, Any]:
    """Size, slices, bounding box and side of one object; half-open pixels, x columns, y rows."""
    z, y, x = (np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    if not len(z):
        return {"voxels": 0}
    box = [int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1]
    return size_of(mask, geometry) | {
        "slices": [int(z[0]), int(z[-1])],
        "box_xyxy": box,
        "side": None if (side := side_of(mask, geometry)) is None else str(side),
    }


def intensity_facts(mask: Mask, voxels: Callable[[int], NDArray[Any]]) -> dict[str, float]:
    """Mean and percentiles of the image inside a mask, in the image's own unit; colours count as their mean."""
    inside = [
        np.asarray(voxels(int(z)), dtype=np.float64).reshape(-1, *mask.shape[1:]).mean(axis=0)[mask[z]]
        for z in np.flatnonzero(mask.any(axis=(1, 2)))
    ]
    if not inside:
        return {}
    values = np.concatenate(inside)
    low, middle, high = np.percentile(values, (5, 50, 95))
    named = {"mean": values.mean(), "p05": low, "median": middle, "p95": high}
    return {name: round(float(value), 2) for name, value in named.items()}


def side_of(mask: Mask, geometry: VolumeGeometry) -> Side | None:
    """Side of the patient that holds the larger part, against the middle of the volume; None without orientation."""
    halves = half_masks(geometry)
    if halves is None or not mask.any():
        return None
    left = np.count_nonzero(mask & halves[Side.LEFT])
    return Side.LEFT if 2 * left >= np.count_nonzero(mask) else Side.RIGHT


def half_masks(geometry: VolumeGeometry) -> dict[Side, Mask] | None:
    """Masks of the two sides of the patient in a volume that covers both; None without orientation.

    World x runs from the patient's left to the right (RAS): the left side is below the middle.
    """
    if geometry.unit is not LengthUnit.MILLIMETRE:
        return None
    row = np.asarray(geometry.affine_zyx_to_ras_mm)[0]
    middle = (np.asarray(geometry.shape_zyx) - 1) / 2
    z, y, x = np.ogrid[tuple(slice(size) for size in geometry.shape_zyx)]
    across = row[0] * (z - middle[0]) + row[1] * (y - middle[1]) + row[2] * (x - middle[2])
    left: Mask = np.broadcast_to(across < 0, geometry.shape_zyx)
    return {Side.LEFT: left, Side.RIGHT: ~left}
