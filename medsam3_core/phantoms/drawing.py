"""Rasterisation of the shapes of phantoms, in coordinates from -1 to 1 along every axis."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Grid = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
Mask = NDArray[np.bool_]
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
    """Points (y, x, r) in pixels of a branching tree that leaves `root_yx` in all directions and gets thinner."""
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


def outline(grid: Grid, centre_yx: Vector, radius_of: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Mask:
    """Mask (y, x) of all pixels that are nearer to the centre than `radius_of` their direction, in radians."""
    y, x = grid[1][0] - centre_yx[0], grid[2][0] - centre_yx[1]
    inside: Mask = np.hypot(y, x) <= radius_of(np.arctan2(y, x))
    return inside


def wavy_radius(
    rng: np.random.Generator, radius: float, *, waves: int = 4, depth: float = 0.12, stretch: float = 1.0
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Radius over direction of an irregular outline: an ellipse of the ratio `stretch`, with waves."""
    turn, phases = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi, waves)
    depths = rng.normal(0, depth, waves) / np.sqrt(np.arange(1, waves + 1))

    def radius_of(angle: NDArray[np.float64]) -> NDArray[np.float64]:
        ellipse = 1 / np.hypot(np.cos(angle - turn) / stretch**0.5, np.sin(angle - turn) * stretch**0.5)
        ripple = sum(
            one * np.cos(number * angle + phase)
            for number, (one, phase) in enumerate(zip(depths, phases, strict=True), 2)
        )
        wavy: NDArray[np.float64] = radius * ellipse * np.maximum(0.3, 1 + ripple)
        return wavy

    return radius_of


def smooth_noise(rng: np.random.Generator, shape_yx: tuple[int, int], size: float) -> NDArray[np.float64]:
    """Noise of zero mean and unit deviation, (y, x), whose patches are about `size` pixels large."""
    coarse = [max(2, round(side / size) + 2) for side in shape_yx]
    noise = rng.standard_normal(coarse)
    zoomed = ndimage.zoom(noise, [side / least for side, least in zip(shape_yx, coarse, strict=True)], order=1)
    spread: NDArray[np.float64] = (zoomed - zoomed.mean()) / max(float(zoomed.std()), 1e-6)
    return spread
