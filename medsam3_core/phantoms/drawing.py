"""Rasterising the shapes that phantoms are made of, in coordinates that run from -1 to 1 along every axis."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Grid = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
Vector = Sequence[float] | NDArray[np.float64]


def unit_grid(shape_zyx: tuple[int, int, int]) -> Grid:
    """Broadcastable coordinates (z, y, x) of voxel centres; the edges of the volume lie at -1 and 1."""
    axes = [(np.arange(size) + 0.5) * 2 / size - 1 for size in shape_zyx]
    return axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]


def ellipsoid(grid: Grid, centre_zyx: Vector, radii_zyx: Vector, *, angle: float = 0.0) -> NDArray[np.bool_]:
    """Mask of an ellipsoid whose in-plane axes are turned by `angle` radians, shape (z, y, x)."""
    z, y, x = (axis - centre for axis, centre in zip(grid, centre_zyx, strict=True))
    along_y, along_x = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    radius_z, radius_y, radius_x = radii_zyx
    inside: NDArray[np.bool_] = (z / radius_z) ** 2 + (along_y / radius_y) ** 2 + (along_x / radius_x) ** 2 <= 1
    return inside


def tube_along_z(grid: Grid, centre_yx: tuple[float, float], radius: float, *, bend: float = 0.0) -> NDArray[np.bool_]:
    """Mask of a tube through all slices, its x drifting by up to `bend`, shape (z, y, x)."""
    z, y, x = grid
    drift = bend * np.sin(np.pi * z / 2)
    inside: NDArray[np.bool_] = (y - centre_yx[0]) ** 2 + (x - centre_yx[1] - drift) ** 2 <= radius**2
    return inside


def strokes(shape_yx: tuple[int, int], points_yxr: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mask (y, x) of all pixels within r of a point; rows of `points_yxr` are (y, x, r) in pixels, r in half steps."""
    mask = np.zeros(shape_yx, dtype=bool)
    rows = np.rint(points_yxr[:, 0]).astype(int)
    columns = np.rint(points_yxr[:, 1]).astype(int)
    visible = (rows >= 0) & (rows < shape_yx[0]) & (columns >= 0) & (columns < shape_yx[1])
    for radius in np.unique(points_yxr[visible, 2]):
        chosen = visible & (points_yxr[:, 2] == radius)
        away = np.ones(shape_yx, dtype=bool)
        away[rows[chosen], columns[chosen]] = False
        mask |= ndimage.distance_transform_edt(away) <= radius
    return mask


def vessel_tree(
    rng: np.random.Generator, root_yx: tuple[float, float], size: int, *, trunks: int = 5
) -> NDArray[np.float64]:
    """Points (y, x, r) in pixels of a branching tree that leaves `root_yx` in all directions and thins as it goes."""
    thickest = max(1.0, size / 64)
    first = rng.uniform(0, 2 * np.pi)
    branches = [
        (root_yx, first + 2 * np.pi * trunk / trunks + rng.uniform(-0.3, 0.3), thickest) for trunk in range(trunks)
    ]
    points: list[tuple[float, float, float]] = []
    while branches:
        (y, x), heading, radius = branches.pop()
        length = int(size * rng.uniform(0.22, 0.36))
        for turn in rng.normal(0, 0.06, length):
            heading += turn
            y, x = y + np.sin(heading), x + np.cos(heading)
            points.append((y, x, radius))
        thinner = np.floor(2 * radius * 0.7) / 2
        if thinner >= 0.5:
            branches += [((y, x), heading + side * rng.uniform(0.25, 0.6), thinner) for side in (-1, 1)]
    return np.array(points)
