"""MetaImage (`.mha`): text header and voxels in one file.

SimpleITK ignores scale factors, units, invalid numbers and damaged compressed voxels; they are refused here.
"""

import math
from functools import partial
from pathlib import Path

from medsam3_core.cases.geometry import AffineUnit
from medsam3_core.errors import CaseDataError
from storage.sources.formats.volumes.format import Carries, Volume, VolumeFormat
from storage.sources.formats.volumes.itk import check_compressed, header_bytes, itk_geometry, itk_size_xy, read_itk
from storage.sources.listing.files import naming

_NAME, _IO, _SUFFIX = "MetaImage", "MetaImageIO", ".mha"
_UNITS = {"mm": AffineUnit.MILLIMETRE, "um": AffineUnit.MICROMETRE, "m": AffineUnit.METRE, "?": AffineUnit.MILLIMETRE}
_PLACES = ("TransformMatrix", "Rotation", "Orientation", "Offset", "Position", "Origin", "ElementSpacing")
_UNSCALED = {"ElementToIntensityFunctionSlope": 1.0, "ElementToIntensityFunctionOffset": 0.0}


def _read(path: Path, channel: int | None) -> Volume:
    header, start = _header(header_bytes(path, _NAME))
    with naming(path):
        unit = _checked(header)
    volume = read_itk(path, _NAME, _IO, channel, unit=unit)
    if header.get("CompressedData", "").lower() == "true":
        check_compressed(path, start)
    return volume


def _header(first: bytes) -> tuple[dict[str, str], int]:
    """Keys with their values, and the offset of the voxels."""
    found: dict[str, str] = {}
    offset = 0
    while (end := first.find(b"\n", offset)) >= 0 and "ElementDataFile" not in found:
        key, _, value = first[offset:end].decode("latin-1").partition("=")
        found[key.strip()] = value.strip()
        offset = end + 1
    return found, offset


def _checked(header: dict[str, str]) -> AffineUnit:
    """Unit of a header, if SimpleITK applies all of it."""
    if (data := header.get("ElementDataFile", "LOCAL")).upper() != "LOCAL":
        msg = f"keeps its voxels in {data!r}; write it as one .mha file"
        raise CaseDataError(msg)
    for key, neutral in _UNSCALED.items():
        if key in header and _numbers(header[key]) != [neutral]:
            msg = f"has {key} {header[key]}, which its readers ignore; apply it to the voxels and write them again"
            raise CaseDataError(msg)
    for key in _PLACES:
        if not all(map(math.isfinite, _numbers(header.get(key, "")))):
            msg = f"has {key} {header[key]}, which are not finite numbers; correct it or export it again"
            raise CaseDataError(msg)
    unit = header.get("DistanceUnits", "mm")
    if unit not in _UNITS:
        msg = f"has DistanceUnits {unit!r}, not one of {', '.join(_UNITS)}; convert its spacing and offset to mm"
        raise CaseDataError(msg)
    return _UNITS[unit]


def _numbers(text: str) -> list[float]:
    """Numbers of a text, NaN for other words."""
    found = []
    for part in text.split():
        try:
            found.append(float(part))
        except ValueError:
            found.append(math.nan)
    return found


FORMAT = VolumeFormat(
    _NAME,
    (_SUFFIX,),
    _read,
    partial(itk_size_xy, image_io=_IO),
    partial(itk_geometry, suffix=_SUFFIX, image_io=_IO),
    frozenset({Carries.AFFINE, Carries.UNIT, Carries.SEVERAL_VOLUMES, Carries.CHECKSUM}),
)
