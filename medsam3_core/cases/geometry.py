"""Volume geometry: shape plus affine. Index order is (z, y, x), world is RAS+ in millimetres.

`z` is the slowest file axis (NIfTI's third), never reoriented. Images without physical spacing (PNG, JPEG) have the
unit `px`: distances then count pixels, not millimetres.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from medsam3_core.errors import CaseDataError

Affine = tuple[tuple[float, float, float, float], ...]

_REVERSE_INDEX = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


class LengthUnit(StrEnum):
    """Unit of spacings and distances."""

    MILLIMETRE = "mm"
    PIXEL = "px"


class AffineUnit(StrEnum):
    """Unit of an affine as a source gives it, by its name in NIfTI headers."""

    MILLIMETRE = "mm"
    METRE = "meter"
    MICROMETRE = "micron"

    @property
    def millimetres(self) -> float:
        """Millimetres per unit."""
        return {AffineUnit.MILLIMETRE: 1.0, AffineUnit.METRE: 1000.0, AffineUnit.MICROMETRE: 0.001}[self]

    def to_millimetres(self, affine: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same affine, shape (4, 4), in millimetres; bit-equal where it is in millimetres already."""
        scaled: NDArray[np.float64] = np.diag([*[self.millimetres] * 3, 1.0]) @ affine
        return scaled


@dataclass(frozen=True)
class VolumeGeometry:
    """Shape and position of a volume; exists only if it is invertible.

    Attributes:
        shape_zyx: Voxels along z, y, x; all at least 1.
        affine_zyx_to_ras_mm: 4 x 4, maps a voxel index (z, y, x, 1) to world coordinates; the last row is (0, 0, 0, 1).
            With `unit` pixels the "world" is the pixel grid itself.
        unit: Unit of the world coordinates.
    """

    shape_zyx: tuple[int, int, int]
    affine_zyx_to_ras_mm: Affine
    unit: LengthUnit = LengthUnit.MILLIMETRE

    def __post_init__(self) -> None:
        if len(self.shape_zyx) != 3 or min(self.shape_zyx) < 1:
            msg = f"shape (z, y, x) needs three positive sizes, got {self.shape_zyx}"
            raise CaseDataError(msg)
        affine = np.asarray(self.affine_zyx_to_ras_mm, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            msg = f"affine must be a finite 4 x 4 matrix, got {affine.tolist()}; re-export the series"
            raise CaseDataError(msg)
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if lengths.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
            msg = f"affine is singular, got {affine.tolist()}; re-export the series"
            raise CaseDataError(msg)

    @classmethod
    def from_nifti(cls, shape_zyx: tuple[int, int, int], affine_xyz: NDArray[np.float64]) -> Self:
        """Build from a NIfTI affine, whose index order is (x, y, z)."""
        affine = np.asarray(affine_xyz, dtype=np.float64)
        if affine.shape != (4, 4):
            msg = f"affine must be 4 x 4, got shape {affine.shape}; re-export the series"
            raise CaseDataError(msg)
        return cls(shape_zyx, _as_tuples(affine @ _REVERSE_INDEX))

    @classmethod
    def pixel_grid(cls, shape_zyx: tuple[int, int, int]) -> Self:
        """Geometry of an image whose physical size is unknown: one unit per pixel."""
        return cls(shape_zyx, _as_tuples(np.eye(4) @ _REVERSE_INDEX), LengthUnit.PIXEL)

    @cached_property
    def affine_nifti(self) -> NDArray[np.float64]:
        """The same affine for index order (x, y, z), shape (4, 4); bit-equal to what `from_nifti` was given."""
        affine: NDArray[np.float64] = np.asarray(self.affine_zyx_to_ras_mm, dtype=np.float64) @ _REVERSE_INDEX
        return affine

    @cached_property
    def spacing_zyx(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along z, y, x, in `unit`."""
        z, y, x = np.linalg.norm(np.asarray(self.affine_zyx_to_ras_mm)[:3, :3], axis=0).tolist()
        return (z, y, x)

    @property
    def is_2d(self) -> bool:
        """True for a single slice."""
        return self.shape_zyx[0] == 1

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in cubic `unit` (area of a pixel in square `unit` for a single slice)."""
        matrix = np.asarray(self.affine_zyx_to_ras_mm)[:3, :3]
        if self.is_2d:
            return float(np.linalg.norm(np.cross(matrix[:, 1], matrix[:, 2])))
        return float(abs(np.linalg.det(matrix)))

    def matches(self, other: "VolumeGeometry", *, tolerance: float = 1e-3) -> bool:
        """True if both put every voxel at the same position: corners differ by at most `tolerance` (in `unit`)."""
        if self.shape_zyx != other.shape_zyx or self.unit != other.unit:
            return False
        depth, height, width = self.shape_zyx
        corners = np.array([[z, y, x, 1] for z in (0, depth) for y in (0, height) for x in (0, width)])
        difference = np.asarray(self.affine_zyx_to_ras_mm) - np.asarray(other.affine_zyx_to_ras_mm)
        return float(np.abs(difference @ corners.T).max()) <= tolerance


def _as_tuples(matrix: NDArray[np.float64]) -> Affine:
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in matrix)
