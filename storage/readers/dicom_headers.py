"""The header of one DICOM file: what it is, which series it belongs to, where it lies. No pixel is read.

Names, birth dates and free text are looked at only to take them out of paths and to make a pseudonym; no header that
leaves this module holds them.
"""

import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, cast

import pydicom
from pydicom.dataset import Dataset
from upath import UPath

from medsam3_core.series_geometry import SeriesFault, SlicePlace
from storage.locations import is_remote
from storage.pseudonyms import Pseudonyms, identity_words
from storage.readers.dicom_elements import (
    PREAMBLE,
    HeaderElements,
    MoreBytesError,
    UnwalkableError,
    is_dicom,
    text_of,
    walk_header,
)
from storage.readers.source_files import read_range

_FIRST_BYTES = 1 << 14
_BLOCK_BYTES = 1 << 20
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_DIRECTORY = "1.2.840.10008.1.3.10"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_SEQUENCE_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
_DEFLATE_LIMIT = 1 << 30

_T = {
    "meta_class": 0x00020002,
    "meta_instance": 0x00020003,
    "charset": 0x00080005,
    "image_type": 0x00080008,
    "sop_class": 0x00080016,
    "sop_instance": 0x00080018,
    "modality": 0x00080060,
    "patient_name": 0x00100010,
    "patient_id": 0x00100020,
    "issuer": 0x00100021,
    "birth_date": 0x00100030,
    "thickness": 0x00180050,
    "echo_time": 0x00180081,
    "b_value": 0x00189087,
    "study": 0x0020000D,
    "series": 0x0020000E,
    "series_number": 0x00200011,
    "acquisition": 0x00200012,
    "position": 0x00200032,
    "orientation": 0x00200037,
    "frame_of_reference": 0x00200052,
    "temporal": 0x00200100,
    "samples": 0x00280002,
    "photometric": 0x00280004,
    "frames": 0x00280008,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "pixel_spacing": 0x00280030,
    "bits_allocated": 0x00280100,
    "bits_stored": 0x00280101,
    "signed": 0x00280103,
    "intercept": 0x00281052,
    "slope": 0x00281053,
}
_WANTED = frozenset(_T.values())


class HeaderKind(StrEnum):
    """What a DICOM file holds."""

    IMAGE = "image"
    SEGMENTATION = "segmentation"
    DIRECTORY = "directory"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Rescale:
    """Stored value to value of the modality: `stored * slope + intercept`."""

    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How pixels are stored."""

    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    is_signed: bool

    @property
    def bytes_per_voxel(self) -> int:
        """Bytes of one voxel with all its samples."""
        return max(1, self.samples) * max(1, -(-self.bits_allocated // 8))


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """What the archive reader keeps of one file.

    Attributes:
        file: Path relative to the source.
        kind: What it holds.
        study_uid: Empty where the file has none, as all UIDs.
        series_uid: Series.
        sop_uid: This object; from the meta header where the data set has none.
        sop_class: Its class.
        frame_of_reference: Coordinate system that positions are relative to.
        modality: CT, MR, ...
        series_number: As text.
        phase: What tells volumes of one series apart: acquisition, time point, echo, b-value.
        frames: How many frames it declares.
        places: One, or one per frame where each says where it lies.
        rescales: As many.
        pixels: How pixels are stored.
        patient: Pseudonym; empty where the file names no patient.
        hidden: Parts of the path that name the patient, each with what is shown instead.
        fault: Why this file cannot be used, or None.
        detail: What was found, for the reason of a rejection.
    """

    file: str
    kind: HeaderKind
    study_uid: str = ""
    series_uid: str = ""
    sop_uid: str = ""
    sop_class: str = ""
    frame_of_reference: str = ""
    modality: str = ""
    series_number: str = ""
    phase: tuple[str, ...] = ()
    frames: int = 1
    places: tuple[SlicePlace, ...] = ()
    rescales: tuple[Rescale, ...] = ()
    pixels: PixelFormat = PixelFormat(1, "MONOCHROME2", 16, 16, is_signed=False)
    patient: str = ""
    hidden: tuple[tuple[str, str], ...] = ()
    fault: SeriesFault | None = None
    detail: str = ""

    @property
    def declared_bytes(self) -> int:
        """Size of the decoded pixels as the header declares it."""
        rows, columns = self.places[0].shape_yx if self.places else (0, 0)
        return self.frames * rows * columns * self.pixels.bytes_per_voxel


class _Values(Protocol):
    def text(self, name: str) -> str: ...

    def number(self, name: str) -> int: ...


def read_header(root: Path, file: str, pseudonyms: Pseudonyms) -> DicomHeader | None:
    """Read one header; None if the file is no DICOM. Never raises on odd content, which becomes a `fault`."""
    try:
        prefix, total = read_range(root / file, 0, _FIRST_BYTES)
    except OSError as error:
        reason = f"{file}: {error.strerror or error}"
        return DicomHeader(file, HeaderKind.OTHER, fault=SeriesFault.TRUNCATED, detail=reason)
    if not is_dicom(prefix):
        return None
    try:
        elements = _walked(root / file, prefix, total)
        header = _header(file, _WalkedValues(elements), pseudonyms, elements)
    except UnwalkableError:
        return _parsed(root / file, file, pseudonyms)
    header = _with_pixel_check(root / file, header, elements, total)
    if header.kind is HeaderKind.IMAGE and header.frames > 1 and header.fault is None:
        return _parsed(root / file, file, pseudonyms)
    return header


def read_headers(root: Path, files: Sequence[str], pseudonyms: Pseudonyms) -> list[DicomHeader | None]:
    """Headers of some files, in order; the unit of work of a parallel scan."""
    return [read_header(root, file, pseudonyms) for file in files]


def _walked(path: Path, prefix: bytes, total: int) -> HeaderElements:
    while True:
        try:
            return walk_header(prefix, total, _WANTED)
        except MoreBytesError:
            prefix, total = read_range(path, 0, 8 * len(prefix))
        except (struct.error, IndexError) as error:
            raise UnwalkableError(str(error)) from error


def _header(file: str, values: _Values, pseudonyms: Pseudonyms, elements: HeaderElements | None) -> DicomHeader:
    name, patient_id, birth = values.text("patient_name"), values.text("patient_id"), values.text("birth_date")
    words = identity_words(name, patient_id, birth)
    shown = [(part, pseudonyms.hide(part, words)) for part in file.split("/")] if words else []
    identity = (values.text("issuer"), patient_id) if patient_id else (name, birth)
    rows, columns = values.number("rows"), values.number("columns")
    sop_class = values.text("sop_class") or values.text("meta_class")
    frames = max(1, int(_first_number(values.text("frames"), 1)))
    return DicomHeader(
        file,
        _kind(sop_class, rows * columns),
        study_uid=values.text("study"),
        series_uid=values.text("series"),
        sop_uid=values.text("sop_instance") or values.text("meta_instance"),
        sop_class=sop_class,
        frame_of_reference=values.text("frame_of_reference"),
        modality=values.text("modality"),
        series_number=values.text("series_number"),
        phase=tuple(values.text(part) for part in ("acquisition", "temporal", "echo_time", "b_value")),
        frames=frames,
        places=(_place(file, values, (rows, columns)),) if rows * columns else (),
        rescales=(_rescale(values),),
        pixels=PixelFormat(
            values.number("samples") or 1,
            values.text("photometric"),
            values.number("bits_allocated") or 16,
            values.number("bits_stored") or values.number("bits_allocated") or 16,
            is_signed=bool(values.number("signed")),
        ),
        patient=pseudonyms.patient(*identity) if patient_id or name else "",
        hidden=tuple(pair for pair in shown if pair[0] != pair[1]),
        fault=SeriesFault.TRUNCATED if elements is not None and elements.is_cut else None,
        detail=f"{file} ends inside its header; copy it again" if elements is not None and elements.is_cut else "",
    )


def _place(name: str, values: _Values, shape: tuple[int, int]) -> SlicePlace:
    position, spacing = _numbers(values.text("position")), _numbers(values.text("pixel_spacing"))
    return SlicePlace(
        name,
        shape,
        (position[0], position[1], position[2]) if len(position) == 3 else None,
        _numbers(values.text("orientation")) or None,
        (spacing[0], spacing[1]) if len(spacing) == 2 else None,
        _first_number(values.text("thickness"), 0.0),
        "LOCALIZER" in values.text("image_type").upper().split("\\"),
    )


def _rescale(values: _Values) -> Rescale:
    slope = _first_number(values.text("slope"), 1.0)
    return Rescale(slope if slope != 0 else 1.0, _first_number(values.text("intercept"), 0.0))


def _kind(sop_class: str, pixels: int) -> HeaderKind:
    if sop_class == _SEGMENTATION:
        return HeaderKind.SEGMENTATION
    if sop_class == _DIRECTORY:
        return HeaderKind.DIRECTORY
    return HeaderKind.IMAGE if pixels else HeaderKind.OTHER


def _with_pixel_check(path: Path, header: DicomHeader, elements: HeaderElements, total: int) -> DicomHeader:
    """The header, with a fault where the pixels that it declares are not all there."""
    if header.kind is not HeaderKind.IMAGE or header.fault is not None:
        return header
    declared = header.declared_bytes
    if elements.pixel_offset is None:
        return _faulty(header, SeriesFault.TRUNCATED, f"{header.file} ends before its pixels; copy it again")
    if elements.pixel_length is None:
        if _ends_early(path, elements.pixel_offset, total):
            return _faulty(header, SeriesFault.TRUNCATED, f"{header.file} ends inside its pixels; copy it again")
    elif min(elements.pixel_length, total - elements.pixel_offset) < declared and not _is_subsampled(header):
        found = min(elements.pixel_length, total - elements.pixel_offset)
        detail = f"{header.file} holds {found} of {declared} bytes of pixels; copy it again"
        return _faulty(header, SeriesFault.TRUNCATED, detail)
    return header


def _is_subsampled(header: DicomHeader) -> bool:
    return header.pixels.photometric.startswith("YBR") or header.pixels.bits_allocated == 1


def _ends_early(path: Path, offset: int, total: int) -> bool:
    """Whether encapsulated pixels run out of file; the end mark is looked for first, then fragment by fragment."""
    tail, _ = read_range(path, max(0, total - 8), 8)
    if tail == _SEQUENCE_END:
        return False
    while offset + 8 <= total:
        head, _ = read_range(path, offset, 8)
        if head == _SEQUENCE_END:
            return False
        group, element, length = struct.unpack("<HHI", head)
        if (group, element) != (0xFFFE, 0xE000):
            return True
        offset += 8 + length
    return True


def _faulty(header: DicomHeader, fault: SeriesFault, detail: str) -> DicomHeader:
    return replace(header, fault=fault, detail=detail)


def _parsed(path: Path, file: str, pseudonyms: Pseudonyms) -> DicomHeader:
    """By pydicom: big endian, deflated, odd lengths, and several frames, whose places stand in sequences."""
    try:
        data = parse_without_pixels(path)
    except Exception as error:  # noqa: BLE001 - pydicom raises what it likes on broken files
        detail = f"{file} cannot be read as DICOM ({type(error).__name__}); copy or export it again"
        return DicomHeader(file, HeaderKind.OTHER, fault=SeriesFault.TRUNCATED, detail=detail)
    header = _header(file, _ParsedValues(data), pseudonyms, None)
    if header.frames < 2 or "PerFrameFunctionalGroupsSequence" not in data:
        return header
    frames = list(_frame_groups(data))
    places = tuple(_frame_place(f"{file} frame {n}", groups, header) for n, groups in enumerate(frames, 1))
    return replace(header, places=places, rescales=tuple(map(_frame_rescale, frames)))


def parse_without_pixels(path: Path) -> Dataset:
    """A full parse, with a limit on what a deflated file may unpack to."""
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
    position = _group(groups, "PlanePositionSequence").get("ImagePositionPatient")
    orientation = _group(groups, "PlaneOrientationSequence").get("ImageOrientationPatient")
    measures = _group(groups, "PixelMeasuresSequence")
    spacing = measures.get("PixelSpacing")
    x, y, z = map(float, position) if position else (0.0, 0.0, 0.0)
    return SlicePlace(
        name,
        header.places[0].shape_yx,
        (x, y, z) if position else None,
        tuple(map(float, orientation)) if orientation else None,
        (float(spacing[0]), float(spacing[1])) if spacing else None,
        float(measures.get("SliceThickness") or 0.0),
    )


def _frame_rescale(groups: tuple[Dataset, Dataset]) -> Rescale:
    transform = _group(groups, "PixelValueTransformationSequence")
    return Rescale(float(transform.get("RescaleSlope") or 1.0), float(transform.get("RescaleIntercept") or 0.0))


@dataclass(frozen=True, slots=True)
class _WalkedValues:
    elements: HeaderElements

    def text(self, name: str) -> str:
        value = self.elements.values.get(_T[name], b"")
        if name in ("patient_name", "patient_id") and not value.isascii():
            return _decoded(value, text_of(self.elements.values.get(_T["charset"], b"")))
        if name == "b_value":
            return value.hex()
        return text_of(value)

    def number(self, name: str) -> int:
        value = self.elements.values.get(_T[name], b"")
        return int(struct.unpack_from("<H", value)[0]) if len(value) >= 2 else 0


@dataclass(frozen=True, slots=True)
class _ParsedValues:
    data: Dataset

    def _value(self, name: str) -> Any:
        for source in (self.data, getattr(self.data, "file_meta", Dataset())):
            if _T[name] in source:
                return source[_T[name]].value
        return None

    def text(self, name: str) -> str:
        value = self._value(name)
        if value is None:
            return ""
        return "\\".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)

    def number(self, name: str) -> int:
        value = self._value(name)
        return int(value) if isinstance(value, int) else 0


def _decoded(value: bytes, charset: str) -> str:
    """A name in its own character set; latin-1 where that set is unknown."""
    try:
        encodings = pydicom.charset.convert_encodings(charset.split("\\") if charset else None)
        return str(pydicom.valuerep.PersonName(value, encodings))
    except (LookupError, ValueError, UnicodeError):
        return value.decode("latin-1").strip(" \0")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split("\\")) if text else ()
    except ValueError:
        return ()


def _first_number(text: str, default: float) -> float:
    numbers = _numbers(text)
    return numbers[0] if numbers else default
