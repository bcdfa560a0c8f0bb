"""Ultrasound-, endoscopy-, dermoscopy- and X-ray-like pictures of one slice without physical spacing."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsam3_core.cases.cases import CaseVolume
from medsam3_core.cases.structures import LabelEntry
from medsam3_core.phantoms.drawing import Mask, ellipsoid, outline, smooth_noise, strokes, unit_grid, wavy_radius
from medsam3_core.phantoms.images import picture
from medsam3_core.phantoms.kinds import PhantomKind, phantom_structures

Shape = tuple[int, int, int]
_GREY = np.ones(3)


def draw_ultrasound(rng: np.random.Generator, seed: int, shape_zyx: Shape, absent: str | None) -> CaseVolume:
    """Layered speckle with a dark nodule and a black cyst, which brightens what lies below it."""
    grid, shape_yx = unit_grid(shape_zyx), shape_zyx[1:]
    echo = 95 + 25 * np.sin(grid[1][0] * rng.uniform(4, 9) + rng.uniform(0, 6) + 0.4 * smooth_noise(rng, shape_yx, 30))
    echo = np.broadcast_to(echo, shape_yx) * (1 - 0.2 * grid[1][0])
    labels = np.zeros(shape_yx, dtype=np.uint8)
    left = float(rng.choice([-1.0, 1.0]))
    places = {
        "nodule": (rng.uniform(-0.3, 0.3), left * rng.uniform(0.35, 0.55), rng.uniform(0.2, 0.36), 45.0),
        "cyst": (rng.uniform(-0.4, 0.2), -left * rng.uniform(0.35, 0.55), rng.uniform(0.14, 0.28), 8.0),
    }
    for value, (name, (y, x, radius, level)) in enumerate(places.items(), start=1):
        if name == absent:
            continue
        mask = outline(grid, (y, x), wavy_radius(rng, radius, depth=0.09, stretch=rng.uniform(1.0, 1.6)))
        if name == "cyst":
            below = (np.abs(grid[2][0] - x) < 0.8 * radius) & (grid[1][0] > y)
            echo = np.where(below, echo * 1.35, echo)
        echo = np.where(mask, level + rng.uniform(-5, 5), echo)
        labels[mask] = value
    speckle = ndimage.gaussian_filter(rng.rayleigh(0.8, shape_yx), (0.5, 1.0))
    return _one_of_each(rng, _grey(echo * speckle), labels, PhantomKind.ULTRASOUND, seed, noise=3.0)


def draw_endoscopy(rng: np.random.Generator, seed: int, shape_zyx: Shape, absent: str | None) -> CaseVolume:
    """Red mucosa with folds, a dark lumen and reflections; polyps bulge towards the light."""
    grid, shape_yx = unit_grid(shape_zyx), shape_zyx[1:]
    lumen = rng.uniform(-0.5, 0.5, 2)
    away = np.hypot(grid[1][0] - lumen[0], grid[2][0] - lumen[1])
    light = np.clip(0.25 + 0.75 * away, 0, 1.05) + 0.07 * np.sin(away * rng.uniform(10, 18))
    light = light + 0.05 * smooth_noise(rng, shape_yx, 20)
    labels = np.zeros(shape_yx, dtype=np.uint8)
    reddish = np.array((205.0, 110.0, 85.0)) * rng.uniform(0.85, 1.15, 3)
    colour = reddish[:, None, None] * light
    for value in range(1, 1 if absent else int(rng.integers(2, 5))):
        centre, radius = rng.uniform(-0.65, 0.65, 2), rng.uniform(0.16, 0.34)
        mask = outline(grid, centre, wavy_radius(rng, radius, depth=0.06, stretch=rng.uniform(1.0, 1.4)))
        if labels[mask].any():
            continue
        dome = 1 - 0.6 * (np.hypot(grid[1][0] - centre[0], grid[2][0] - centre[1]) / radius) ** 2
        tone = reddish * rng.uniform((1.0, 0.75, 0.75), (1.2, 1.1, 1.1))
        colour[:, mask] = tone[:, None] * (light * np.clip(0.75 + 0.5 * dome, 0.4, 1.3))[mask]
        labels[mask] = value
    for _ in range(int(rng.integers(2, 8))):
        glint = ellipsoid(grid, (0, *rng.uniform(-0.9, 0.9, 2)), (1e6, *rng.uniform(0.01, 0.05, 2)))[0]
        colour[:, glint] = 250
    field = ellipsoid(grid, (0, 0, 0), (1e6, 1.15, 1.15))[0]
    present = [value for value in np.unique(labels).tolist() if value]
    entries = tuple(LabelEntry(value, "polyp", number) for number, value in enumerate(present, start=1))
    return picture(rng, colour * field, labels * field, entries, PhantomKind.ENDOSCOPY, seed)


def draw_dermoscopy(rng: np.random.Generator, seed: int, shape_zyx: Shape, absent: str | None) -> CaseVolume:
    """Skin with hairs and a brown, irregular lesion; sometimes the dark corners of the lens."""
    grid, shape_yx = unit_grid(shape_zyx), (shape_zyx[1], shape_zyx[2])
    skin = np.array((222.0, 178.0, 155.0)) * rng.uniform(0.8, 1.08)
    shade = 1 + 0.03 * smooth_noise(rng, shape_yx, 25) + 0.02 * smooth_noise(rng, shape_yx, 3)
    colour = skin[:, None, None] * shade
    labels = np.zeros(shape_yx, dtype=np.uint8)
    if absent is None:
        radius = rng.uniform(0.22, 0.6)
        mask = outline(grid, rng.uniform(-0.2, 0.2, 2), wavy_radius(rng, radius, waves=7, depth=0.16, stretch=1.3))
        brown = np.array((115.0, 72.0, 52.0)) * rng.uniform(0.7, 1.35)
        soft = np.clip(ndimage.gaussian_filter(mask.astype(float), rng.uniform(0.6, 2.0)), 0, 1)
        pigment = brown[:, None, None] * (1 + 0.12 * smooth_noise(rng, shape_yx, rng.uniform(4, 14)))
        colour = colour * (1 - soft) + pigment * soft
        labels[mask] = 1
    for _ in range(int(rng.integers(0, 7))):
        colour[:, _hair(rng, shape_yx)] = rng.uniform(20, 80)
    if rng.random() < 0.3:
        colour = colour * ellipsoid(grid, (0, 0, 0), (1e6, 1.2, 1.2))[0]
    return _one_of_each(rng, colour, labels, PhantomKind.DERMOSCOPY, seed, noise=4.0)


def draw_xray(rng: np.random.Generator, seed: int, shape_zyx: Shape, absent: str | None) -> CaseVolume:
    """A chest from the front: dark lungs, ribs, a heart on the left of the patient (right of the picture)."""
    grid, shape_yx = unit_grid(shape_zyx), shape_zyx[1:]
    y, x = np.broadcast_arrays(grid[1][0], grid[2][0])
    density = 150 + 25 * np.exp(-((x / 0.12) ** 2)) - 60 * (np.abs(x) > 0.93)
    size, lift = rng.uniform(0.9, 1.1), rng.uniform(-0.08, 0.08)
    masks = {
        name: ellipsoid(grid, (0, lift, side * 0.44), (1e6, 0.72 * size, 0.33 * size), angle=side * 0.12)[0]
        for name, side in (("lung_left", 1), ("lung_right", -1))
    }
    heart = outline(grid, (lift + 0.25, 0.14), wavy_radius(rng, rng.uniform(0.26, 0.36), depth=0.05, stretch=1.25))
    masks["heart"] = heart
    labels = np.zeros(shape_yx, dtype=np.uint8)
    for value, (name, mask) in enumerate(masks.items(), start=1):
        if name == absent:
            continue
        density = np.where(mask, 195.0 if name == "heart" else 62.0, density)
        labels[mask] = value
    ribs = np.sin((y + 0.35 * (np.abs(x) - 0.4) ** 2) * rng.uniform(16, 22) + rng.uniform(0, 6))
    density = density + 14 * np.clip(ribs, 0, 1) * (np.abs(x) < 0.85) + 4 * smooth_noise(rng, shape_yx, 12)
    density = density * rng.uniform(0.85, 1.15)
    return _one_of_each(rng, _grey(density), labels, PhantomKind.XRAY, seed, noise=5.0)


def _one_of_each(
    rng: np.random.Generator,
    colour: NDArray[np.float64],
    labels: NDArray[np.uint8],
    kind: PhantomKind,
    seed: int,
    *,
    noise: float,
) -> CaseVolume:
    """A picture whose label values 1..n are the structures of its kind."""
    entries = tuple(LabelEntry(value, item.name) for value, item in enumerate(phantom_structures(kind), start=1))
    grey = kind in (PhantomKind.ULTRASOUND, PhantomKind.XRAY)
    return picture(rng, colour, labels, entries, kind, seed, noise=noise, grey=grey)


def _grey(tone: NDArray[np.float64]) -> NDArray[np.float64]:
    return _GREY[:, None, None] * tone


def _hair(rng: np.random.Generator, shape_yx: Sequence[int]) -> Mask:
    """A thin bent line across the picture."""
    height, width = shape_yx
    length = max(height, width)
    headings = rng.uniform(0, 2 * np.pi) + np.linspace(0, rng.uniform(-1.0, 1.0), length)
    y = rng.uniform(0, height) + np.cumsum(np.sin(headings))
    x = rng.uniform(0, width) + np.cumsum(np.cos(headings))
    return strokes((height, width), np.column_stack([y, x, np.full(length, 0.5)]))
