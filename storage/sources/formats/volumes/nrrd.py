"""NRRD (`.nrrd`): text header and voxels in one file.

SimpleITK reads every space other than the anatomical ones as left-posterior-superior, and ignores units. If a file
names no space, that assumption is kept in its attributes; other spaces are refused.
"""

import zlib
from functools import partial
from pathlib import Path

from medsam3_core.cases.geometry import AffineUnit
from medsam3_core.errors import CaseDataError
from storage.sources.formats.volumes.format import Carries, Volume, VolumeFormat
from storage.sources.formats.volumes.itk import check_compressed, header_bytes, itk_geometry, itk_size_xy, read_itk
from storage.sources.listing.files import naming

_NAME, _IO, _SUFFIX = "NRRD", "NrrdImageIO", ".nrrd"
_SPACES = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior", "LPS", "RAS", "LAS")
_UNITS = {"mm": AffineUnit.MILLIMETRE, "um": AffineUnit.MICROMETRE, "m": AffineUnit.METRE, "": AffineUnit.MILLIMETRE}
_ASSUMED = "none; left-posterior-superior is assumed"


def _read(path: Path, channel: int | None) -> Volume:
    fields, start = _fields(header_bytes(path, _NAME))
    with naming(path):
        unit = _checked(fields)
    facts = {"nrrd_space": fields.get("space", _ASSUMED)}
    volume = read_itk(path, _NAME, _IO, channel, unit=unit, attributes=facts)
    if fields.get("encoding", "").lower() in ("gzip", "gz"):
        check_compressed(path, start, 16 + zlib.MAX_WBITS)
    return volume


def _fields(first: bytes) -> tuple[dict[str, str], int]:
    """Fields of the header, names in lower case, and the offset of the voxels: after the first empty line."""
    found: dict[str, str] = {}
    offset = 0
    for line in first.splitlines(keepends=True):
        offset += len(line)
        name, colon, value = line.decode("latin-1").partition(": ")
        if not line.strip():
            break
        if colon and not line.startswith(b"#"):
            found[name.strip().lower()] = value.strip()
    return found, offset


def _checked(fields: dict[str, str]) -> AffineUnit:
    """Unit of a header, if SimpleITK applies all of it."""
    if data := fields.get("data file", fields.get("datafile")):
        msg = f"keeps its voxels in {data!r}; write it as one .nrrd file"
        raise CaseDataError(msg)
    space = fields.get("space")
    if space is not None and space.lower() not in map(str.lower, _SPACES):
        known = ", ".join(_SPACES[:3])
        msg = f"has the space {space!r}, which does not define left and right; give it one of {known}"
        raise CaseDataError(msg)
    named = {unit.strip() for unit in fields.get("space units", fields.get("units", "")).split('"')}
    units = named - {""} or {""}
    if len(units) > 1 or not units <= _UNITS.keys():
        msg = f"has the units {', '.join(sorted(units))}; give all of its axes in mm, um or m"
        raise CaseDataError(msg)
    return _UNITS[units.pop()]


FORMAT = VolumeFormat(
    _NAME,
    (_SUFFIX,),
    _read,
    partial(itk_size_xy, image_io=_IO),
    partial(itk_geometry, suffix=_SUFFIX, image_io=_IO),
    frozenset({Carries.AFFINE, Carries.UNIT, Carries.SEVERAL_VOLUMES, Carries.CHECKSUM}),
)
