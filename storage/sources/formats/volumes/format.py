"""A volume format, the volume that its reader returns, and rules common to all readers."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.geometry import AffineUnit, VolumeGeometry
from medsam3_core.errors import CaseDataError, UnreadableFileError


class Carries(StrEnum):
    """Properties of a volume that a format can store beside its voxels."""

    AFFINE = "affine"
    UNIT = "unit"
    SCALE_FACTORS = "scale factors"
    SEVERAL_VOLUMES = "several volumes"
    CHECKSUM = "checksum"


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels of a file and their position.

    Attributes:
        voxels: Shape (z, y, x), native byte order.
        geometry: Their position, in millimetres.
        affine: 4 x 4 for index order (x, y, z), to RAS+, exactly as the header gives it.
        attributes: Fields of the header (JSON values).
        unit: Unit of the affine; by convention millimetres if the header gives none.
    """

    voxels: NDArray[Any]
    geometry: VolumeGeometry
    affine: NDArray[np.float64]
    attributes: dict[str, Any]
    unit: AffineUnit


@dataclass(frozen=True, slots=True)
class VolumeFormat:
    """A kind of file that holds one volume, for images and for label maps.

    Attributes:
        name: Name in messages and docs.
        suffixes: Endings of file names, in lower case; the longer one first if one is an ending of another.
        read: Reads a file, or one channel of it. Raises CaseDataError for damaged files and voxels that are not scalar.
        size_xy: Width and height of a slice from the header; None if it cannot be read.
        geometry: Shape and position from the first bytes of a file; None if they do not give three dimensions.
        carries: Properties that files of this format can store.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, int | None], Volume]
    size_xy: Callable[[Path], tuple[int, int] | None]
    geometry: Callable[[bytes], VolumeGeometry | None]
    carries: frozenset[Carries]


def unreadable(path: Path, name: str, error: Exception) -> UnreadableFileError:
    """Error of one line for a file that a library refuses."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return UnreadableFileError(
        f"{path} cannot be read as {name} ({reason}); it may be truncated, copy or export it again"
    )


def as_numbers(stored: NDArray[Any]) -> NDArray[Any]:
    """Numbers in native byte order, as float32 instead of float64 if that loses nothing.

    Raises:
        CaseDataError: If voxels are not scalar numbers.
    """
    if stored.dtype.kind not in "biuf":
        msg = f"voxels have the type {stored.dtype}; a scalar number per voxel is expected, convert the file"
        raise CaseDataError(msg)
    if stored.dtype.kind == "b":
        return stored.astype(np.uint8)
    if stored.dtype.kind == "f" and stored.dtype.itemsize >= 8:
        with np.errstate(over="ignore"):
            single = stored.astype(np.float32)
        return single if np.array_equal(single, stored) else stored.astype(np.float64)
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def three_dimensional(voxels: NDArray[Any], channel: int | None) -> NDArray[Any]:
    """Voxels (x, y, z) of an array with 2 to 4 dimensions; the fourth holds channels.

    Raises:
        CaseDataError: If there are several channels and none is chosen.
    """
    shape = voxels.shape
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim == 2:
        return voxels[:, :, None]
    if voxels.ndim == 3:
        return voxels
    if voxels.ndim == 4 and channel is not None and channel < shape[3]:
        return voxels[..., channel]
    if voxels.ndim == 4 and channel is not None:
        msg = f"channel {channel} was chosen, but shape {shape} has only {shape[3]}; correct channel in the recipe"
    else:
        msg = f"shape {shape} where three dimensions are expected; choose one volume with channel in the recipe"
    raise CaseDataError(msg)


def make_volume(
    spatial_xyz: NDArray[Any], affine: NDArray[np.float64], unit: AffineUnit, attributes: dict[str, Any]
) -> Volume:
    """A volume of voxels with index order (x, y, z).

    Raises:
        CaseDataError: If the affine is singular or not finite.
    """
    voxels = np.ascontiguousarray(spatial_xyz.T)
    depth, height, width = voxels.shape
    geometry = VolumeGeometry.from_nifti((depth, height, width), unit.to_millimetres(affine))
    return Volume(voxels, geometry, affine, attributes, unit)
