"""Volumes written by SimpleITK from voxels (z, y, x) and an affine in RAS+ mm."""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own custom
from numpy.typing import NDArray


def itk_image(voxels: NDArray[Any], affine: NDArray[np.float64], *, vector: bool = False) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels, isVector=vector)
    place = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(place[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(place[:3, 3].tolist())
    image.SetDirection((place[:3, :3] / spacing).ravel().tolist())
    return image


def write_itk(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """Compressed where the name says so: `z.mha`."""
    sitk.WriteImage(itk_image(voxels, affine), str(path))


def affine_by_itk(path: Path) -> NDArray[np.float64]:
    """Affine in RAS+ of a file, from where SimpleITK puts its first voxels."""
    image = sitk.ReadImage(str(path))
    corner, *ends = (
        np.array(image.TransformIndexToPhysicalPoint(index)) for index in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    )
    affine = np.eye(4)
    affine[:3, :] = np.column_stack([*(end - corner for end in ends), corner])
    in_ras: NDArray[np.float64] = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return in_ras
