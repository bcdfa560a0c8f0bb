"""CT-like and MR-like volumes with anisotropic voxels.

Rows run from anterior to posterior and columns from the right of the patient to the left, in radiological orientation,
so the liver is on the left side of a slice.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsam3_core.cases.cases import CaseVolume
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.structures import LabelEntry, LabelMap
from medsam3_core.phantoms.drawing import Grid, ellipsoid, tube_along_z, unit_grid
from medsam3_core.phantoms.kinds import MODALITIES, PhantomKind, phantom_structures

CT_HU = {
    "air": -1000,
    "fat": -100,
    "soft_tissue": 20,
    "bone": 500,
    "liver": 110,
    "spleen": 150,
    "kidney_left": 210,
    "kidney_right": 210,
    "aorta": 300,
}
"""Mean Hounsfield units in a CT phantom; bone is drawn but is not a structure."""

MR_INTENSITY = {
    "air": 0,
    "scalp": 780,
    "brain": 450,
    "ventricle": 110,
    "hippocampus_left": 300,
    "hippocampus_right": 300,
    "tumour": 680,
}
"""Mean intensities of an MR phantom before bias field and noise, in the arbitrary unit of MR."""

_CT_NOISE_HU = 12.0
_MR_NOISE = 14.0

Masks = dict[str, NDArray[np.bool_]]


def draw_ct(rng: np.random.Generator, seed: int, shape_zyx: tuple[int, int, int], absent: str | None) -> CaseVolume:
    """An abdomen of soft tissue in a rim of fat, with a spine and five organs of the Hounsfield units in `CT_HU`."""
    grid = unit_grid(shape_zyx)
    hounsfield = np.full(shape_zyx, CT_HU["air"], dtype=np.float32)
    hounsfield[np.broadcast_to(ellipsoid(grid, (0, 0, 0), (1e6, 0.80, 0.94)), shape_zyx)] = CT_HU["fat"]
    hounsfield[np.broadcast_to(ellipsoid(grid, (0, 0, 0), (1e6, 0.74, 0.88)), shape_zyx)] = CT_HU["soft_tissue"]
    hounsfield[tube_along_z(grid, (0.52, 0.0), 0.13)] = CT_HU["bone"]
    organs = _abdominal_organs(rng, grid)
    labels = _paint(hounsfield, organs, CT_HU, PhantomKind.CT, absent)
    blurred = ndimage.gaussian_filter(hounsfield, (0.0, 0.4, 0.4))
    noisy = blurred + rng.normal(0, _CT_NOISE_HU, shape_zyx).astype(np.float32)
    spacing_zyx = (float(rng.choice([2.5, 3.0, 5.0])), 0.8, 0.8)
    return _volume(np.rint(noisy).astype(np.int16), labels, spacing_zyx, PhantomKind.CT, seed)


def draw_mr(rng: np.random.Generator, seed: int, shape_zyx: tuple[int, int, int], absent: str | None) -> CaseVolume:
    """A T1-like head with ventricles, both hippocampi and a tumour under a smooth bias field and Rician noise."""
    grid = unit_grid(shape_zyx)
    intensity = np.full(shape_zyx, MR_INTENSITY["air"], dtype=np.float32)
    intensity[np.broadcast_to(ellipsoid(grid, (0, 0, 0), (1.6, 0.92, 0.78)), shape_zyx)] = MR_INTENSITY["scalp"]
    intensity[np.broadcast_to(ellipsoid(grid, (0, 0, 0), (1.5, 0.82, 0.68)), shape_zyx)] = MR_INTENSITY["brain"]
    labels = _paint(intensity, _brain_structures(rng, grid), MR_INTENSITY, PhantomKind.MR, absent)
    blurred = ndimage.gaussian_filter(intensity, (0.0, 0.5, 0.5)) * _bias_field(rng, grid)
    real = blurred + rng.normal(0, _MR_NOISE, shape_zyx)
    magnitude = np.hypot(real, rng.normal(0, _MR_NOISE, shape_zyx))
    spacing_zyx = (float(rng.choice([3.0, 4.0])), 1.0, 1.0)
    return _volume(np.rint(magnitude).astype(np.int16), labels, spacing_zyx, PhantomKind.MR, seed)


def _abdominal_organs(rng: np.random.Generator, grid: Grid) -> Masks:
    def shifted(*centre: float) -> NDArray[np.float64]:
        return np.array(centre) + rng.uniform(-0.04, 0.04, 3)

    size = rng.uniform(0.9, 1.1, 4)
    return {
        "liver": ellipsoid(grid, shifted(0.1, -0.12, -0.42), np.array((0.8, 0.42, 0.36)) * size[0], angle=0.3),
        "spleen": ellipsoid(grid, shifted(0.1, 0.05, 0.62), np.array((0.6, 0.28, 0.16)) * size[1], angle=-0.2),
        "kidney_left": ellipsoid(grid, shifted(-0.1, 0.42, 0.36), np.array((0.6, 0.17, 0.12)) * size[2], angle=0.4),
        "kidney_right": ellipsoid(grid, shifted(-0.2, 0.42, -0.36), np.array((0.6, 0.17, 0.12)) * size[3], angle=-0.4),
        "aorta": tube_along_z(grid, (0.27, 0.06), rng.uniform(0.07, 0.09), bend=rng.uniform(-0.05, 0.05)),
    }


def _brain_structures(rng: np.random.Generator, grid: Grid) -> Masks:
    wide = rng.uniform(0.85, 1.2)
    ventricles = [
        ellipsoid(grid, (0.15, -0.08, side * 0.14), (0.6, 0.30 * wide, 0.08 * wide), angle=side * 0.15)
        for side in (-1, 1)
    ]
    side = float(rng.choice([-1.0, 1.0]))
    tumour_centre = (rng.uniform(-0.2, 0.5), rng.uniform(-0.45, -0.25), side * rng.uniform(0.36, 0.44))
    hippocampus_radii = np.array((0.5, 0.14, 0.09)) * rng.uniform(0.9, 1.15)
    return {
        "ventricle": ventricles[0] | ventricles[1],
        "hippocampus_left": ellipsoid(grid, (-0.3, 0.18, 0.36), hippocampus_radii, angle=-0.5),
        "hippocampus_right": ellipsoid(grid, (-0.3, 0.18, -0.36), hippocampus_radii, angle=0.5),
        "tumour": ellipsoid(grid, tumour_centre, np.array((0.45, 0.16, 0.14)) * rng.uniform(0.8, 1.3)),
    }


def _bias_field(rng: np.random.Generator, grid: Grid) -> NDArray[np.float64]:
    slopes = rng.uniform(-0.2, 0.2, 4)
    z, y, x = grid
    field: NDArray[np.float64] = np.exp(slopes[0] * z + slopes[1] * y + slopes[2] * x + slopes[3] * x * y)
    return field


def _paint(
    intensity: NDArray[np.float32], masks: Masks, levels: dict[str, int], kind: PhantomKind, absent: str | None
) -> NDArray[np.uint8]:
    """Fill the structures into `intensity` (in place) and return their label map; later structures lie on top."""
    labels = np.zeros(intensity.shape, dtype=np.uint8)
    for value, structure in enumerate(phantom_structures(kind), start=1):
        if structure.name != absent:
            intensity[masks[structure.name]] = levels[structure.name]
            labels[masks[structure.name]] = value
    return labels


def _volume(
    voxels: NDArray[np.int16],
    labels: NDArray[np.uint8],
    spacing_zyx: tuple[float, float, float],
    kind: PhantomKind,
    seed: int,
) -> CaseVolume:
    depth, height, width = voxels.shape
    affine = _affine_xyz((depth, height, width), spacing_zyx, tilt_degrees=12.0 if seed % 3 == 2 else 0.0)
    geometry = VolumeGeometry.from_nifti((depth, height, width), affine)
    names = [structure.name for structure in phantom_structures(kind)]
    entries = tuple(LabelEntry(value, name) for value, name in enumerate(names, start=1) if (labels == value).any())
    attributes = {"phantom": {"kind": str(kind), "seed": seed}}
    return CaseVolume(voxels, geometry, (LabelMap(labels, geometry, entries),), MODALITIES[kind], affine, attributes)


def _affine_xyz(
    shape_zyx: tuple[int, int, int], spacing_zyx: tuple[float, float, float], *, tilt_degrees: float
) -> NDArray[np.float64]:
    """NIfTI affine of a volume centred on the origin: x to the left, y to the back, z to the head, tilted about x."""
    tilt = np.deg2rad(tilt_degrees)
    rotation = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-spacing_zyx[2], -spacing_zyx[1], spacing_zyx[0]])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape_zyx[::-1]) - 1) / 2)
    return affine
