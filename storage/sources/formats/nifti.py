"""One NIfTI file read whole: voxels in (z, y, x) file order, the exact affine, and what the header says.

The voxels are those of the file with `scl_slope` and `scl_inter` applied, never reoriented. Where the header gives
metres or micrometres, the geometry is in millimetres while the NIfTI affine stays as stored.
"""

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from medsam3_core.cases.geometry import AffineUnit, VolumeGeometry
from medsam3_core.errors import CaseDataError, UnreadableFileError
from storage.sources.listing.files import naming
from storage.sources.listing.limits import require_fitting

UNREADABLE = (
    ImageFileError,
    HeaderDataError,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    MemoryError,
    zlib.error,
    struct.error,
)
"""What nibabel raises for files that are damaged or no NIfTI."""


@dataclass(frozen=True, eq=False)
class NiftiVolume:
    """What a NIfTI file holds.

    Attributes:
        voxels: Shape (z, y, x), native byte order.
        geometry: Where they are, in millimetres.
        affine: 4 x 4 for index order (x, y, z), exactly as the header gives it.
        attributes: Facts of the header (JSON values).
        unit: Unit of the affine; millimetres where the header gives none, by custom.
    """

    voxels: NDArray[Any]
    geometry: VolumeGeometry
    affine: NDArray[np.float64]
    attributes: dict[str, Any]
    unit: AffineUnit


def read_nifti(path: Path, *, channel: int | None = None) -> NiftiVolume:
    """Read a 2D or 3D file, or one channel of a 4D file; a 4D file with a single volume counts as 3D.

    Raises:
        CaseDataError: If the file is missing, truncated or no NIfTI, has no numbers as voxels, has several channels
            and none is chosen, or a singular affine; names file, value and remedy.
    """
    try:
        image: Any = nib.load(path, mmap=False)  # type: ignore[call-arg, unused-ignore]
        require_fitting(str(path), math.prod(image.shape) * image.get_data_dtype().itemsize)
        stored = np.asanyarray(image.dataobj)
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = f"{path} cannot be read as NIfTI ({reason}); it may be truncated, copy or export it again"
        raise UnreadableFileError(msg) from error
    with naming(path):
        spatial = _three_dimensional(_as_numbers(stored), channel)
        affine = np.asarray(image.affine, dtype=np.float64)
        unit = _length_unit(image.header)
        voxels = np.ascontiguousarray(spatial.T)
        depth, height, width = voxels.shape
        geometry = VolumeGeometry.from_nifti((depth, height, width), unit.to_millimetres(affine))
    return NiftiVolume(voxels, geometry, affine, _header_facts(image, channel), unit)


def _as_numbers(stored: NDArray[Any]) -> NDArray[Any]:
    """Native byte order, and float32 instead of float64 where that loses nothing."""
    if stored.dtype.kind not in "biuf":
        msg = f"voxels are of type {stored.dtype}; a scalar number per voxel is expected, convert the file"
        raise CaseDataError(msg)
    if stored.dtype.kind == "b":
        return stored.astype(np.uint8)
    if stored.dtype.kind == "f" and stored.dtype.itemsize >= 8:
        with np.errstate(over="ignore"):
            single = stored.astype(np.float32)
        return single if np.array_equal(single, stored) else stored.astype(np.float64)
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def _three_dimensional(voxels: NDArray[Any], channel: int | None) -> NDArray[Any]:
    """Voxels (x, y, z) of an array with 2 to 4 dimensions."""
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


def _length_unit(header: Any) -> AffineUnit:
    """Unit of the header; files without a known one are in millimetres by custom."""
    try:
        return AffineUnit(header.get_xyzt_units()[0])
    except (AttributeError, KeyError, ValueError):
        return AffineUnit.MILLIMETRE


def _header_facts(image: Any, channel: int | None) -> dict[str, Any]:
    header = image.header
    facts: dict[str, Any] = {
        f"nifti_{code}": int(header[code]) for code in ("sform_code", "qform_code") if code in header
    }
    facts["nifti_dtype"] = str(image.get_data_dtype())
    slope, inter = getattr(image.dataobj, "slope", 1.0), getattr(image.dataobj, "inter", 0.0)
    if (slope, inter) != (1.0, 0.0):
        facts |= {"nifti_scl_slope": float(slope), "nifti_scl_inter": float(inter)}
    if channel is not None and len(image.shape) == 4:
        facts["channel"] = channel
    return facts
