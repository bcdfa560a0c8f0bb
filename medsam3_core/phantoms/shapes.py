"""Shapes and textures without anatomy, for training a generalist before any patient data.

A picture holds a few of 18 concepts (six forms, each bright, dark or textured), from one large shape to dozens of
small ones, over a background of any tone and colour, with distractors that belong to no concept.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.cases import CaseVolume
from medsam3_core.cases.structures import LabelEntry
from medsam3_core.phantoms.drawing import (
    Grid,
    Mask,
    outline,
    smooth_noise,
    strokes,
    unit_grid,
    vessel_tree,
    wavy_radius,
)
from medsam3_core.phantoms.images import picture
from medsam3_core.phantoms.kinds import Form, Look, PhantomKind, shape_name

_CROWDS = ((1, 1, 0.35, 0.75), (1, 3, 0.2, 0.45), (2, 7, 0.12, 0.3), (8, 30, 0.05, 0.12))
"""Minimum and maximum number of shapes of a concept, and of their radius, of half the picture."""
_VISIBLE = 0.7
"""Share of a shape that must stay visible; a shape that would hide more of another one is not drawn."""
_MIN_PIXELS = 12
"""A smaller shape is not drawn."""
_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Concept:
    look: Look
    form: Form


def draw_shapes(rng: np.random.Generator, seed: int, shape_zyx: tuple[int, int, int], absent: str | None) -> CaseVolume:
    """One to four concepts in one picture; each shape belongs to its look and form, to its form and to its look."""
    assert absent is None, "shapes are drawn freely"
    shape_yx = (shape_zyx[1], shape_zyx[2])
    grid = unit_grid(shape_zyx)
    grey = bool(rng.random() < 0.5)
    base = float(rng.uniform(50, 205))
    tone = _background(rng, shape_yx, base)
    _scratch(rng, tone, grid)
    colour = np.stack([tone * tint for tint in _tints(rng, grey, 0.25)])
    labels = np.zeros(shape_yx, dtype=np.uint16)
    concepts = _concepts(rng)
    drawn: list[_Concept] = []
    for concept in concepts:
        tints = _tints(rng, grey, 0.15)
        for mask in _shapes(rng, concept.form, grid, small=len(concepts) > 2):
            if _fits(mask, labels):
                drawn.append(concept)
                colour[:, mask] = _painted(rng, concept.look, tone, base, mask) * np.array(tints)[:, None]
                labels[mask] = len(drawn)
    blur, noise = float(rng.uniform(0.2, 1.2)), float(rng.uniform(1, 12))
    return picture(rng, colour, labels, _entries(drawn), PhantomKind.SHAPES, seed, blur=blur, noise=noise, grey=grey)


def _concepts(rng: np.random.Generator) -> list[_Concept]:
    """One to four; often two that share form or look, so that one word alone does not distinguish them."""
    looks, forms = list(Look), list(Form)
    first = _Concept(looks[rng.integers(3)], forms[rng.integers(6)])
    chosen = [first]
    for _ in range(int(rng.integers(0, 4))):
        look = first.look if rng.random() < 0.35 else looks[rng.integers(3)]
        form = first.form if rng.random() < 0.35 else forms[rng.integers(6)]
        chosen.append(_Concept(look, form))
    return list(dict.fromkeys(chosen))


def _shapes(rng: np.random.Generator, form: Form, grid: Grid, *, small: bool) -> list[Mask]:
    """Masks of all shapes of one concept."""
    crowds = _CROWDS[2:] if small else _CROWDS
    fewest, most, least, greatest = crowds[rng.integers(len(crowds))]
    if form is Form.TUBE:
        fewest, most = 1, min(most, 3)
    radius = rng.uniform(least, greatest)
    masks = []
    for _ in range(int(rng.integers(fewest, most + 1))):
        for _ in range(_TRIES):
            reach = 1 - 0.7 * min(radius, 1.0)
            mask = _FORMS[form](rng, grid, rng.uniform(-reach, reach, 2), radius * rng.uniform(0.8, 1.2))
            if np.count_nonzero(mask) >= _MIN_PIXELS:
                masks.append(mask)
                break
    return masks


def _fits(mask: Mask, labels: NDArray[np.uint16]) -> bool:
    """True if every shape stays visible for the most part under the new one."""
    covered = np.unique(labels[mask])
    return all(
        np.count_nonzero((labels == value) & ~mask) >= _VISIBLE * np.count_nonzero(labels == value)
        for value in covered[covered > 0]
    )


def _disc(rng: np.random.Generator, grid: Grid, centre: NDArray[np.float64], radius: float) -> Mask:
    return outline(grid, centre, lambda angle: np.full_like(angle, radius))


def _oval(rng: np.random.Generator, grid: Grid, centre: NDArray[np.float64], radius: float) -> Mask:
    return outline(grid, centre, wavy_radius(rng, radius, waves=0, stretch=rng.uniform(1.7, 3.0)))


def _polygon(rng: np.random.Generator, grid: Grid, centre: NDArray[np.float64], radius: float) -> Mask:
    corners, turn = int(rng.integers(3, 7)), rng.uniform(0, 2 * np.pi)
    step = 2 * np.pi / corners
    return outline(grid, centre, lambda angle: radius * np.cos(step / 2) / np.cos((angle + turn) % step - step / 2))


def _blob(rng: np.random.Generator, grid: Grid, centre: NDArray[np.float64], radius: float) -> Mask:
    return outline(grid, centre, wavy_radius(rng, radius, waves=5, depth=0.2, stretch=rng.uniform(1.0, 1.6)))


def _ring(rng: np.random.Generator, grid: Grid, centre: NDArray[np.float64], radius: float) -> Mask:
    least = 4 / min(grid[1].size, grid[2].size)  # two pixels
    inner = max(0.0, min(radius * rng.uniform(0.45, 0.7), radius - least))
    away = np.hypot(grid[1][0] - centre[0], grid[2][0] - centre[1])
    band: Mask = (away <= radius) & (away > inner)
    return band


def _tube(rng: np.random.Generator, grid: Grid, centre: NDArray[np.float64], radius: float) -> Mask:
    """A tree of the size of the picture if the radius is large, else one bent line."""
    shape_yx = (grid[1].size, grid[2].size)
    size = min(shape_yx)
    start = ((centre[0] + 1) * shape_yx[0] / 2, (centre[1] + 1) * shape_yx[1] / 2)
    if radius > 0.25:
        return strokes(shape_yx, vessel_tree(rng, start, size, trunks=int(rng.integers(1, 4))))
    length, heading = int(size * rng.uniform(0.3, 0.8)), rng.uniform(0, 2 * np.pi)
    headings = heading + np.cumsum(rng.normal(0, 0.06, length)) + np.linspace(0, rng.uniform(-2, 2), length)
    thickness = max(1.0, round(2 * rng.uniform(0.5, 0.15 + radius * size / 8)) / 2)
    points = np.stack([start[0] + np.cumsum(np.sin(headings)), start[1] + np.cumsum(np.cos(headings))], axis=1)
    return strokes(shape_yx, np.column_stack([points, np.full(length, thickness)]))


_FORMS: dict[Form, Callable[[np.random.Generator, Grid, NDArray[np.float64], float], Mask]] = {
    Form.DISC: _disc,
    Form.OVAL: _oval,
    Form.POLYGON: _polygon,
    Form.BLOB: _blob,
    Form.RING: _ring,
    Form.TUBE: _tube,
}


def _background(rng: np.random.Generator, shape_yx: tuple[int, int], base: float) -> NDArray[np.float64]:
    """A tone with a slope and patches, (y, x)."""
    slope = np.add.outer(np.linspace(-1, 1, shape_yx[0]) * rng.normal(), np.linspace(-1, 1, shape_yx[1]) * rng.normal())
    patches = smooth_noise(rng, shape_yx, rng.uniform(3, 40)) * rng.uniform(0, 10)
    return base + slope * rng.uniform(0, 10) + patches


def _scratch(rng: np.random.Generator, tone: NDArray[np.float64], grid: Grid) -> None:
    """Distractors that belong to no concept, faint: straight scratches and shadows, drawn into `tone`."""
    for _ in range(int(rng.integers(0, 4))):
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.8, 0.8)
        distance = np.abs(np.cos(angle) * grid[1][0] + np.sin(angle) * grid[2][0] - offset)
        width = rng.uniform(0.01, 0.03) if rng.random() < 0.5 else rng.uniform(0.1, 0.3)
        tone += rng.uniform(-18, 18) * np.exp(-((distance / width) ** 2))


def _painted(
    rng: np.random.Generator, look: Look, tone: NDArray[np.float64], base: float, mask: Mask
) -> NDArray[np.float64]:
    """Tones of the pixels of a shape: clearly brighter or darker than its surroundings, or a pattern on their tone."""
    around = tone[mask]
    if look is Look.TEXTURED:
        return around + rng.uniform(22, 45) * _pattern(rng, (tone.shape[0], tone.shape[1]))[mask]
    room = 250 - base if look is Look.BRIGHT else base - 5
    contrast = rng.uniform(0.45, 0.95) * room
    inner = smooth_noise(rng, (tone.shape[0], tone.shape[1]), 8)[mask] * rng.uniform(0, 6)
    return around + (contrast if look is Look.BRIGHT else -contrast) + inner


def _pattern(rng: np.random.Generator, shape_yx: tuple[int, int]) -> NDArray[np.float64]:
    """Stripes, a chequerboard or grains, of zero mean and about unit deviation, (y, x)."""
    way, period, angle = int(rng.integers(3)), rng.uniform(4, 9), rng.uniform(0, np.pi)
    if way == 2:
        return smooth_noise(rng, shape_yx, rng.uniform(1.5, 3))
    y, x = np.ogrid[: shape_yx[0], : shape_yx[1]]
    along = np.sin((np.cos(angle) * y + np.sin(angle) * x) * 2 * np.pi / period)
    across = np.sin((np.cos(angle) * x - np.sin(angle) * y) * 2 * np.pi / period)
    pattern: NDArray[np.float64] = np.sign(along) if way == 0 else np.sign(along * across)
    return pattern


def _tints(rng: np.random.Generator, grey: bool, strength: float) -> list[float]:
    """Factors of red, green and blue."""
    return [1.0] * 3 if grey else rng.uniform(1 - strength, 1 + strength, 3).tolist()


def _entries(drawn: list[_Concept]) -> tuple[LabelEntry, ...]:
    """Label value i + 1 is the i-th shape; instances are counted within each structure."""
    counts: dict[str, int] = {}
    entries = []
    for value, concept in enumerate(drawn, start=1):
        for structure in (shape_name(concept.look, concept.form), str(concept.form), str(concept.look)):
            counts[structure] = counts.get(structure, 0) + 1
            entries.append(LabelEntry(value, structure, counts[structure]))
    return tuple(entries)
