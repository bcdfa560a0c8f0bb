"""NIfTI: voxels in (z, y, x) file order, the exact affine, and fields of the header.

The voxels are those of the file with `scl_slope` and `scl_inter` applied, never reoriented. If the header gives metres
or micrometres, the geometry is in millimetres while the affine stays as stored.
"""

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from medsam3_core.cases.geometry import AffineUnit, VolumeGeometry
from medsam3_core.errors import CaseDataError
from storage.sources.formats.volumes.format import (
    Carries,
    Volume,
    VolumeFormat,
    as_numbers,
    make_volume,
    three_dimensional,
    unreadable,
)
from storage.sources.listing.files import naming
from storage.sources.listing.limits import require_fitting

_UNREADABLE = (
    ImageFileError,
    HeaderDataError,
    WrapStructError,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    MemoryError,
    zlib.error,
    struct.error,
)
"""Errors of nibabel for files that are damaged or not NIfTI."""
_HEADER_BYTES = 348


def read_nifti(path: Path, channel: int | None = None) -> Volume:
    """Read a 2D or 3D file, or one channel of a 4D file; a 4D file with a single volume counts as 3D.

    Raises:
        CaseDataError: If the file is missing, truncated or not NIfTI, has voxels that are not numbers, has several
            channels and none is chosen, or a singular affine; names file, value and remedy.
    """
    try:
        image: Any = nib.load(path, mmap=False)  # type: ignore[call-arg, unused-ignore]
        require_fitting(str(path), math.prod(image.shape) * image.get_data_dtype().itemsize)
        stored = np.asanyarray(image.dataobj)
    except _UNREADABLE as error:
        raise unreadable(path, FORMAT.name, error) from error
    with naming(path):
        spatial = three_dimensional(as_numbers(stored), channel)
        affine = np.asarray(image.affine, dtype=np.float64)
        return make_volume(spatial, affine, _length_unit(image.header), _header_facts(image, channel))


def _size_xy(path: Path) -> tuple[int, int] | None:
    try:
        shape = nib.load(path).shape  # type: ignore[attr-defined, unused-ignore]
    except _UNREADABLE:
        return None
    return (shape[0], shape[1]) if len(shape) >= 2 else None


def _geometry(first: bytes) -> VolumeGeometry | None:
    """Geometry of a NIfTI-1 header, compressed or not."""
    try:
        if first[:2] == b"\x1f\x8b":
            first = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(first, _HEADER_BYTES)
        header = nib.Nifti1Header(first[:_HEADER_BYTES], check=False)
        width, height, depth = (int(size) for size in header.get_data_shape()[:3])
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
        return VolumeGeometry.from_nifti((depth, height, width), affine)
    except (*_UNREADABLE, CaseDataError):
        return None


def _length_unit(header: Any) -> AffineUnit:
    """Unit in the header; by convention millimetres if it is unknown."""
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


FORMAT = VolumeFormat("NIfTI", (".nii.gz", ".nii"), read_nifti, _size_xy, _geometry, frozenset(Carries))
