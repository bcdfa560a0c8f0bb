"""Parse by pydicom the headers that are not walked: big endian, deflated, invalid lengths, several frames."""

import io
import struct
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from upath import UPath

from medsam3_core.cases.series_geometry import SeriesFault, SlicePlace
from storage.sources.dicom.elements import PREAMBLE
from storage.sources.dicom.headers import DicomHeader, HeaderKind, Rescale, make_header, odd_header
from storage.sources.dicom.values import ParsedValues
from storage.sources.listing.files import read_range
from storage.store.locations import is_remote
from storage.store.pseudonyms import Pseudonyms

_FIRST_BYTES = 1 << 14
_BLOCK_BYTES = 1 << 20
_DEFLATED = "1.2.840.10008.1.2.1.99"
_DEFLATE_LIMIT = 1 << 30


def parse_header(path: Path, file: str, pseudonyms: Pseudonyms) -> DicomHeader:
    """The header of a file by pydicom, with a place for each frame of an enhanced one; never raises on odd content.

    A file with invalid values keeps its series UID, so that only its own series is rejected.
    """
    try:
        data = parse_without_pixels(path)
    except Exception as error:  # noqa: BLE001 - pydicom raises any error on broken files
        detail = f"{file} cannot be read as DICOM ({type(error).__name__}); copy or export it again"
        return DicomHeader(file, HeaderKind.OTHER, fault=SeriesFault.TRUNCATED, detail=detail)
    values = ParsedValues(data)
    header = make_header(file, values, pseudonyms)
    if header.fault is None and (found := values.first_odd()) is not None:
        return replace(header, fault=SeriesFault.ODD_HEADER, detail=odd_header(file, found))
    try:
        return _with_frames(header, data)
    except Exception as error:  # noqa: BLE001 - empty values, missing items
        detail = f"{file} has frames without a valid position ({error}); correct them or export the series again"
        return replace(header, fault=SeriesFault.ODD_HEADER, detail=detail)


def _with_frames(header: DicomHeader, data: Dataset) -> DicomHeader:
    """The header with the values of its functional groups; a single frame may have the missing ones outside of them."""
    if header.kind is not HeaderKind.IMAGE or "PerFrameFunctionalGroupsSequence" not in data:
        return header
    frames = list(_frame_groups(data))
    places = tuple(_frame_place(f"{header.file} frame {n}", groups, header) for n, groups in enumerate(frames, 1))
    rescales = tuple(_frame_rescale(groups, header.rescales[0]) for groups in frames)
    if header.frames == 1 and len(places) == 1:
        known = header.places[0]
        merged = SlicePlace(
            header.file,
            known.shape_yx,
            places[0].position or known.position,
            places[0].orientation or known.orientation,
            places[0].spacing_yx or known.spacing_yx,
            places[0].thickness or known.thickness,
            known.is_localizer,
        )
        places = (merged,)
    return replace(header, places=places, rescales=rescales, is_enhanced=True)


def parse_without_pixels(path: Path) -> Dataset:
    """Parse a whole header, with a limit on the unpacked size of a deflated file."""
    content, total = read_range(path, 0, _FIRST_BYTES)
    if _DEFLATED.encode() in content[:1024]:
        whole, _ = read_range(path, 0, total)
        start = PREAMBLE + 12 + struct.unpack_from("<I", whole, PREAMBLE + 8)[0]  # after the meta group, by its length
        if len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(whole[start:], _DEFLATE_LIMIT)) >= _DEFLATE_LIMIT:
            msg = "deflated data set unpacks to more than 1 GB"
            raise ValueError(msg)
        return pydicom.dcmread(io.BytesIO(whole), stop_before_pixels=True, force=True)
    if is_remote(path):
        with cast("UPath", path).open("rb", block_size=_BLOCK_BYTES) as file:
            return pydicom.dcmread(file, stop_before_pixels=True, force=True)
    return pydicom.dcmread(path, stop_before_pixels=True, force=True, defer_size=1 << 20)


def _frame_groups(data: Dataset) -> Iterable[tuple[Dataset, Dataset]]:
    shared = data.get("SharedFunctionalGroupsSequence") or [Dataset()]
    for frame in data.PerFrameFunctionalGroupsSequence:
        yield frame, shared[0]


def _group(groups: tuple[Dataset, Dataset], name: str) -> Dataset:
    for source in groups:
        if source.get(name):
            return source[name].value[0]  # type: ignore[no-any-return]
    return Dataset()


def _frame_place(name: str, groups: tuple[Dataset, Dataset], header: DicomHeader) -> SlicePlace:
    measures = _group(groups, "PixelMeasuresSequence")
    position = _numbers(name, _group(groups, "PlanePositionSequence"), "ImagePositionPatient", 3)
    orientation = _numbers(name, _group(groups, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    spacing = _numbers(name, measures, "PixelSpacing", 2)
    return SlicePlace(
        name,
        header.places[0].shape_yx,
        (position[0], position[1], position[2]) if position else None,
        orientation or None,
        (spacing[0], spacing[1]) if spacing else None,
        float(measures.get("SliceThickness") or 0.0),
    )


def _numbers(name: str, group: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """The expected count of numbers, or none if the group has none."""
    value = group.get(keyword)
    found = () if value in (None, "") else tuple(value) if isinstance(value, MultiValue) else (value,)
    if found and len(found) != count:
        msg = f"{name}: {keyword} {value}; {count} numbers are expected"
        raise ValueError(msg)
    return tuple(map(float, found))


def _frame_rescale(groups: tuple[Dataset, Dataset], whole: Rescale) -> Rescale:
    """Rescale of the frame, else of the whole file."""
    transform = _group(groups, "PixelValueTransformationSequence")
    slope, intercept = transform.get("RescaleSlope"), transform.get("RescaleIntercept")
    return Rescale(
        whole.slope if slope in (None, "") else float(slope) or 1.0,
        whole.intercept if intercept in (None, "") else float(intercept),
    )
