"""NRRD (`.nrrd`): text header and voxels in one file.

SimpleITK takes every space that is none of the anatomical ones for left-posterior-superior, and passes over units. Of
a file that names no space that is an assumption, kept in its attributes; other spaces are refused.
"""

import zlib
from pathlib import Path

from medsam3_core.cases.geometry import AffineUnit, VolumeGeometry
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
    """Fields of the header, names in lower case, and where the voxels start: after the first empty line."""
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
    """The unit of a header that SimpleITK understands whole."""
    if data := fields.get("data file", fields.get("datafile")):
        msg = f"keeps its voxels in {data!r}; write it as one .nrrd file"
        raise CaseDataError(msg)
    space = fields.get("space")
    if space is not None and space.lower() not in map(str.lower, _SPACES):
        known = ", ".join(_SPACES[:3])
        msg = f"lies in the space {space!r}, where left and right are not known; give it one of {known}"
        raise CaseDataError(msg)
    named = {unit.strip() for unit in fields.get("space units", fields.get("units", "")).split('"')}
    units = named - {""} or {""}
    if len(units) > 1 or not units <= _UNITS.keys():
        msg = f"has the units {', '.join(sorted(units))}; give all of its axes in mm, um or m"
        raise CaseDataError(msg)
    return _UNITS[units.pop()]


def _size_xy(path: Path) -> tuple[int, int] | None:
    return itk_size_xy(path, _IO)


def _geometry(first: bytes) -> VolumeGeometry | None:
    return itk_geometry(first, _SUFFIX, _IO)


FORMAT = VolumeFormat(
    _NAME,
    (_SUFFIX,),
    _read,
    _size_xy,
    _geometry,
    frozenset({Carries.AFFINE, Carries.UNIT, Carries.SEVERAL_VOLUMES, Carries.CHECKSUM}),
)
