"""Fundus-like and nuclei-like RGB images: volumes of one slice without physical spacing."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsam3_core.cases.cases import CaseVolume
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.structures import LabelEntry, LabelMap
from medsam3_core.phantoms.drawing import ellipsoid, strokes, unit_grid, vessel_tree
from medsam3_core.phantoms.kinds import MODALITIES, PhantomKind

VESSEL, OPTIC_DISC, VESSEL_ON_DISC = 1, 2, 3

_RETINA = (190.0, 95.0, 45.0)
_BLOOD = (120.0, 30.0, 25.0)
_DISC = (245.0, 205.0, 130.0)
_STAINED = ((232.0, 205.0, 222.0), (105.0, 60.0, 140.0))
_FLUORESCENT = ((12.0, 12.0, 14.0), (150.0, 150.0, 155.0))


def draw_fundus(rng: np.random.Generator, seed: int, shape_zyx: tuple[int, int, int], absent: str | None) -> CaseVolume:
    """A retina with a vessel tree that leaves the optic disc; label value 3 is vessel in front of the disc.

    If the optic disc is absent, the tree enters from outside the field of view.
    """
    grid = unit_grid(shape_zyx)
    height, width = shape_zyx[1:]
    size = min(height, width)
    side = float(rng.choice([-1.0, 1.0]))
    disc_y, disc_x = rng.uniform(-0.1, 0.1), side * rng.uniform(0.35, 0.5)
    if absent == "optic_disc":
        disc_x = side * 1.15
    field_of_view = ellipsoid(grid, (0, 0, 0), (1e6, 0.96, 0.96))[0]
    disc = ellipsoid(grid, (0, disc_y, disc_x), (1e6, 0.17, 0.15))[0] & field_of_view
    root = ((disc_y + 1) * height / 2, (disc_x + 1) * width / 2)
    vessel = strokes((height, width), vessel_tree(rng, root, size)) & field_of_view
    labels = (vessel * VESSEL + disc * OPTIC_DISC).astype(np.uint8)
    shade = (1 - 0.35 * (grid[1] ** 2 + grid[2] ** 2))[0]
    colour = np.zeros((3, height, width))
    for mask, tone in ((field_of_view, _RETINA), (disc, _DISC), (vessel, _BLOOD)):
        colour[:, mask] = np.array(tone)[:, None]
    entries = [LabelEntry(VESSEL, "vessel"), LabelEntry(VESSEL_ON_DISC, "vessel")]
    entries += [LabelEntry(value, "optic_disc") for value in (OPTIC_DISC, VESSEL_ON_DISC)]
    return picture(rng, colour * shade, labels, tuple(entries), PhantomKind.FUNDUS, seed)


def draw_nuclei(rng: np.random.Generator, seed: int, shape_zyx: tuple[int, int, int], absent: str | None) -> CaseVolume:
    """Elliptic nuclei that may touch but never overlap, stained (odd seeds) or fluorescent; label value = instance."""
    height, width = shape_zyx[1:]
    background, foreground = _STAINED if seed % 2 else _FLUORESCENT
    colour = np.broadcast_to(np.array(background)[:, None, None], (3, height, width)).copy()
    labels = np.zeros((height, width), dtype=np.uint16)
    wanted = 0 if absent == "nucleus" else int(rng.integers(6, 22))
    for nucleus in _nuclei(rng, labels, wanted):
        colour[:, nucleus] = (np.array(foreground) * rng.uniform(0.8, 1.2))[:, None]
    entries = tuple(LabelEntry(value, "nucleus", value) for value in range(1, int(labels.max()) + 1))
    return picture(rng, colour, labels, entries, PhantomKind.NUCLEI, seed)


def _nuclei(rng: np.random.Generator, labels: NDArray[np.uint16], wanted: int) -> list[NDArray[np.bool_]]:
    """Place up to `wanted` nuclei without overlap into `labels` (in place); masks in label order."""
    height, width = labels.shape
    grid = unit_grid((1, height, width))
    placed: list[NDArray[np.bool_]] = []
    for _ in range(4 * wanted):
        if len(placed) == wanted:
            break
        radii = rng.uniform(0.07, 0.15, 2)
        centre = rng.uniform(-0.95, 0.95, 2)
        nucleus = ellipsoid(grid, (0, *centre), (1e6, *radii), angle=rng.uniform(0, np.pi))[0]
        if not labels[nucleus].any():
            placed.append(nucleus)
            labels[nucleus] = len(placed)
    return placed


def picture(
    rng: np.random.Generator,
    colour: NDArray[np.float64],
    labels: NDArray[np.uint8] | NDArray[np.uint16],
    entries: tuple[LabelEntry, ...],
    kind: PhantomKind,
    seed: int,
    *,
    blur: float = 0.6,
    noise: float = 5.0,
    grey: bool = False,
) -> CaseVolume:
    """Blur, add noise and wrap a picture of one slice.

    Args:
        rng: Draws the noise.
        colour: Shape (3, y, x) on the scale 0..255.
        labels: Label values, shape (y, x).
        entries: Meaning of the values; those that do not occur are left out.
        kind: Kind of image.
        seed: Number of the case.
        blur: Sigma in pixels.
        noise: Standard deviation in grey values.
        grey: True if all channels get the same noise.
    """
    spread = (1, *colour.shape[1:]) if grey else colour.shape
    noisy = ndimage.gaussian_filter(colour, (0, blur, blur)) + rng.normal(0, noise, spread)
    voxels = np.rint(np.clip(noisy, 0, 255)).astype(np.uint8)[:, None]
    geometry = VolumeGeometry.pixel_grid((1, labels.shape[0], labels.shape[1]))
    present = set(np.unique(labels).tolist())
    reference = LabelMap(labels[None], geometry, tuple(entry for entry in entries if entry.value in present))
    attributes = {"phantom": {"kind": str(kind), "seed": seed}}
    return CaseVolume(voxels, geometry, (reference,), MODALITIES[kind], attributes=attributes)
