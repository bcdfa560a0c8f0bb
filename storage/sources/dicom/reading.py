"""Read the header of a DICOM file: walked if possible, else parsed by pydicom; never raises."""

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medsam3_core.cases.series_geometry import SeriesFault
from storage.sources.dicom.elements import HeaderElements, MoreBytesError, UnwalkableError, is_dicom, walk_header
from storage.sources.dicom.headers import DicomHeader, HeaderKind, make_header
from storage.sources.dicom.parsing import parse_header
from storage.sources.dicom.values import FRAME_GROUPS_TAG, WANTED_TAGS, WalkedValues
from storage.sources.listing.files import read_range
from storage.store.pseudonyms import Pseudonyms

_FIRST_BYTES = 1 << 14
_SEQUENCE_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"


def read_header(root: Path, file: str, pseudonyms: Pseudonyms) -> DicomHeader | None:
    """Read one header; None if the file is not DICOM.

    Odd content, and a file that moves or shrinks while it is read, become a `fault`.
    """
    try:
        return _read_header(root, file, pseudonyms)
    except OSError as error:
        reason = f"{file}: {error.strerror or error}; copy it again"
        return DicomHeader(file, HeaderKind.OTHER, fault=SeriesFault.TRUNCATED, detail=reason)
    except Exception as error:  # noqa: BLE001 - one file with an unknown fault must not end the listing
        reason = f"{file} has an unreadable header ({type(error).__name__}: {error}); export it again"
        return DicomHeader(file, HeaderKind.OTHER, fault=SeriesFault.ODD_HEADER, detail=reason)


def _read_header(root: Path, file: str, pseudonyms: Pseudonyms) -> DicomHeader | None:
    prefix, total = read_range(root / file, 0, _FIRST_BYTES)
    if not is_dicom(prefix):
        return None
    try:
        elements = _walked(root / file, prefix, total)
        header = make_header(file, WalkedValues(elements), pseudonyms)
    except UnwalkableError:
        return parse_header(root / file, file, pseudonyms)
    header = _with_length_check(root / file, header, elements, total)
    has_frames = header.frames > 1 or FRAME_GROUPS_TAG in elements.values
    if header.kind is HeaderKind.IMAGE and has_frames and header.fault is None:
        return parse_header(root / file, file, pseudonyms)
    return header


def read_headers(root: Path, files: Sequence[str], pseudonyms: Pseudonyms) -> list[DicomHeader | None]:
    """Headers of files, in order; the unit of work of a parallel scan."""
    return [read_header(root, file, pseudonyms) for file in files]


def _walked(path: Path, prefix: bytes, total: int) -> HeaderElements:
    while True:
        try:
            return walk_header(prefix, total, WANTED_TAGS)
        except MoreBytesError:
            prefix, total = read_range(path, 0, 8 * len(prefix))
        except (struct.error, IndexError) as error:
            raise UnwalkableError(str(error)) from error


def _with_length_check(path: Path, header: DicomHeader, elements: HeaderElements, total: int) -> DicomHeader:
    """The header, with a fault if the file ends early or holds fewer pixels than it declares."""
    if elements.is_cut:
        return _truncated(header, "ends inside its header")
    if header.kind is not HeaderKind.IMAGE or header.fault is not None:
        return header
    declared = header.declared_bytes
    if elements.pixel_offset is None:
        return _truncated(header, "ends before its pixels")
    if elements.pixel_length is None:
        if _ends_early(path, elements.pixel_offset, total):
            return _truncated(header, "ends inside its pixels")
    elif min(elements.pixel_length, total - elements.pixel_offset) < declared and not _is_subsampled(header):
        found = min(elements.pixel_length, total - elements.pixel_offset)
        return _truncated(header, f"holds {found} of {declared} bytes of pixels")
    return header


def _is_subsampled(header: DicomHeader) -> bool:
    return header.pixels.photometric.startswith("YBR") or header.pixels.bits_allocated == 1


def _ends_early(path: Path, offset: int, total: int) -> bool:
    """True if encapsulated pixels are truncated; looks for the end mark first, then fragment by fragment."""
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


def _truncated(header: DicomHeader, finding: str) -> DicomHeader:
    return replace(header, fault=SeriesFault.TRUNCATED, detail=f"{header.file} {finding}; copy it again")
