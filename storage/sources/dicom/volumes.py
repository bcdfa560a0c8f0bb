"""Read the voxels of a DICOM series in the order of its verified geometry.

SimpleITK decodes most series and keeps integers; pydicom reads the rest: several frames, colour (a palette is applied),
MONOCHROME1, a rescale that differs between slices (in float32; SimpleITK would truncate it to integers), slices with
different pixel formats (in a type that holds all), and files that SimpleITK refuses.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813 - its own convention
from numpy.typing import NDArray
from pydicom.pixels import apply_color_lut

from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.geometry import LengthUnit, VolumeGeometry
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.series_geometry import ProvenSeries, SeriesFault, SeriesRejectedError
from storage.sources.dicom.headers import PALETTE, DicomHeader, Rescale
from storage.sources.dicom.reading import read_header
from storage.sources.dicom.series import is_flat, prove_headers
from storage.sources.listing.files import naming
from storage.sources.listing.limits import require_fitting
from storage.store.pseudonyms import Pseudonyms

_INVERTED = "MONOCHROME1"
_WITHOUT_KEY = Pseudonyms(b"")

sitk.ProcessObject.SetGlobalWarningDisplay(False)


def read_dicom_case(source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
    """A series as a volume, or one image without position; without references.

    Raises:
        SeriesRejectedError: If the files have changed since they were listed, or cannot be decoded.
    """
    headers = [_header(source, file) for file in case.image]
    require_fitting(f"{case.image[0]} and {len(headers) - 1} more", sum(header.declared_bytes for header in headers))
    if len(headers) == 1 and headers[0].fault is None and is_flat(headers[0]):
        proven = ProvenSeries((0,), _flat_geometry(headers[0]))
    else:
        proven = prove_headers(headers)
    geometry = proven.geometry
    voxels = _voxels(source, headers, proven.order)
    with naming(case.image[0]):
        return CaseVolume(
            voxels,
            geometry,
            modality=headers[0].modality or recipe.modality,
            nifti_affine=None if geometry.unit is LengthUnit.PIXEL else geometry.affine_nifti,
            attributes=_facts(headers),
        )


def _header(source: Path, file: str) -> DicomHeader:
    header = read_header(source, file, _WITHOUT_KEY)
    if header is None:
        raise SeriesRejectedError.of(SeriesFault.NOT_DICOM, f"{file} is no longer a DICOM file; copy it again")
    return header


def _flat_geometry(header: DicomHeader) -> VolumeGeometry:
    """Grid in millimetres if PixelSpacing exists: the spacing at the detector is not that in the patient."""
    place = header.places[0]
    shape = (1, *place.shape_yx)
    if place.spacing_yx is None or min(place.spacing_yx) <= 0:
        return VolumeGeometry.pixel_grid(shape)
    rows, columns = place.spacing_yx
    return VolumeGeometry.from_nifti(shape, np.diag([-columns, -rows, 1.0, 1.0]))


def _voxels(source: Path, headers: Sequence[DicomHeader], order: Sequence[int]) -> NDArray[Any]:
    rescales = [rescale for header in headers for rescale in header.rescales]
    pixels = headers[0].pixels
    if any(header.pixels != pixels for header in headers) or len(set(rescales)) > 1 or pixels.samples > 1:
        return _by_pydicom(source, headers, order)
    if (
        any(header.frames > 1 or header.is_enhanced for header in headers)
        or pixels.photometric in (_INVERTED, PALETTE)
        or pixels.bits_allocated not in (8, 16, 32)
    ):
        return _by_pydicom(source, headers, order)
    try:
        voxels = _by_simpleitk([str(source / headers[index].file) for index in order])
    except (RuntimeError, ValueError):
        return _by_pydicom(source, headers, order)
    if voxels.shape != (len(order), *headers[0].places[0].shape_yx):
        return _by_pydicom(source, headers, order)
    return voxels


def _by_simpleitk(files: list[str]) -> NDArray[Any]:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    voxels = sitk.GetArrayFromImage(reader.Execute())
    return voxels.astype(np.float32) if voxels.dtype == np.float64 else voxels


def _by_pydicom(source: Path, headers: Sequence[DicomHeader], order: Sequence[int]) -> NDArray[Any]:
    """Read slice by slice into one array: float32 if the rescale is fractional or varies."""
    rescales = [rescale for header in headers for rescale in header.rescales]
    if len(headers) == 1:
        frames = _decoded(source / headers[0].file, headers[0])
        slices: Iterable[NDArray[Any]] = (frames[index] for index in order)
        return _assembled(slices, [rescales[index] for index in order], [headers[0]] * len(order))
    slices = (_decoded(source / headers[index].file, headers[index])[0] for index in order)
    return _assembled(slices, [rescales[index] for index in order], [headers[index] for index in order])


def _decoded(path: Path, header: DicomHeader) -> NDArray[Any]:
    """Stored pixels, or their colours in a palette, shape (frames, y, x) or (frames, y, x, samples)."""
    try:
        data = pydicom.dcmread(path, force=True)
        pixels = data.pixel_array
        if header.pixels.photometric == PALETTE:
            pixels = _coloured(pixels, data)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        msg = f"{header.file} cannot be decoded ({reason}); convert it to an uncompressed syntax or copy it again"
        raise SeriesRejectedError.of(SeriesFault.UNREADABLE_PIXELS, msg) from error
    return pixels if header.frames > 1 else pixels[None]


def _coloured(stored: NDArray[Any], data: pydicom.Dataset) -> NDArray[np.uint8]:
    """Colours of stored pixels in a palette, shape (..., 3), 8 bits; values beyond its ends get its first or last."""
    if "RedPaletteColorLookupTableDescriptor" not in data:
        msg = f"{PALETTE} without RedPaletteColorLookupTableDescriptor"
        raise ValueError(msg)
    entries, first, bits = data.RedPaletteColorLookupTableDescriptor
    entries = entries or 1 << 16
    palette = apply_color_lut(np.arange(first, first + entries), data)[:, :3]
    if palette.dtype == np.uint8 and entries > 256:
        msg = f"a palette of {entries} entries of 8 bits is not supported"
        raise ValueError(msg)
    if bits > 8 and palette.max() > 255:  # else 8 bits stored in 16, as some writers do
        palette = palette >> 8
    colours: NDArray[np.uint8] = palette.astype(np.uint8)[np.clip(stored.astype(np.int32) - first, 0, entries - 1)]
    return colours


def _assembled(
    slices: Iterable[NDArray[Any]], rescales: Sequence[Rescale], headers: Sequence[DicomHeader]
) -> NDArray[Any]:
    volume: NDArray[Any] | None = None
    same = len(set(rescales)) == 1
    for z, (stored, rescale, header) in enumerate(zip(slices, rescales, headers, strict=True)):
        if stored.ndim == 3:
            plane = np.moveaxis(stored[..., :3], 2, 0)
        elif same and rescale.slope == 1 and rescale.intercept.is_integer():
            plane = stored.astype(np.int32) + int(rescale.intercept) if rescale.intercept else stored
        else:
            plane = (stored * np.float64(rescale.slope) + rescale.intercept).astype(np.float32)
        if header.pixels.photometric == _INVERTED and stored.ndim == 2:
            plane = _inverted(plane, header, rescale).astype(plane.dtype)
        if volume is None:
            volume = np.zeros((*plane.shape[:-2], len(rescales), *plane.shape[-2:]), plane.dtype)
        elif (wider := np.result_type(volume.dtype, plane.dtype)) != volume.dtype:
            volume = volume.astype(wider)
        volume[..., z, :, :] = plane
    assert volume is not None
    if volume.dtype == np.float64:
        return volume.astype(np.float32)
    return _narrow(volume) if volume.dtype in (np.int32, np.int64) else volume


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    """The first of int16, uint16, int32 and uint32 that holds all values."""
    low, high = values.min(initial=0), values.max(initial=0)
    for kind in (np.int16, np.uint16, np.int32, np.uint32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind, copy=False)
    return values


def _inverted(voxels: NDArray[Any], header: DicomHeader, rescale: Rescale) -> NDArray[Any]:
    """Mirror MONOCHROME1, which stores bright as low, in the range of its bits."""
    bits = header.pixels.bits_stored
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if header.pixels.is_signed else (0, (1 << bits) - 1)
    ends = (low + high) * rescale.slope + 2 * rescale.intercept
    if voxels.dtype.kind == "f":
        return (np.float32(ends) - voxels).astype(np.float32)
    return _narrow(int(ends) - voxels.astype(np.int32))


def _facts(headers: Sequence[DicomHeader]) -> dict[str, Any]:
    """Attributes to keep: UIDs of series and coordinate system, and steps applied; no name, date or free text."""
    first = headers[0]
    facts: dict[str, Any] = {
        "dicom_series_uid": first.series_uid or None,
        "dicom_frame_of_reference_uid": first.frame_of_reference or None,
        "dicom_sop_class": first.sop_class,
        "dicom_files": len(headers),
    }
    rescales = {rescale for header in headers for rescale in header.rescales}
    if len(rescales) == 1:
        one = first.rescales[0]
        facts |= {"dicom_rescale_slope": one.slope, "dicom_rescale_intercept": one.intercept}
    else:
        facts["dicom_rescale"] = "differs between slices"
    if any(header.pixels.photometric == _INVERTED for header in headers):
        facts["dicom_monochrome1"] = "inverted"
    if any(header.pixels.photometric == PALETTE for header in headers):
        facts["dicom_palette"] = "applied"
    return facts
