"""Walk a DICOM header element by element: ten times faster than a full parse, and it detects truncated files.

Implicit and explicit little endian are walked here: nearly every file of an archive. Rarer files (big endian, deflated,
broken lengths) are left to pydicom, see `parsing`. Only requested values are decoded.
"""

import struct
from collections.abc import Collection
from dataclasses import dataclass

PREAMBLE = 132
TRANSFER_SYNTAX = 0x00020010
PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})

_IMPLICIT = "1.2.840.10008.1.2"
_LONG_FORM = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_NOT_WALKED = frozenset({"1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1"})
_MAX_DEPTH = 16


class UnwalkableError(Exception):
    """This header needs a full parser: big endian, deflated, or invalid lengths."""


class MoreBytesError(Exception):
    """The header continues after the bytes read so far."""


@dataclass(frozen=True, slots=True)
class HeaderElements:
    """Elements found before the pixels.

    Attributes:
        values: Tag to the bytes of its value, for the requested tags; empty for a sequence of undefined length.
        syntax: Transfer syntax UID; implicit little endian if the file has no meta header.
        pixel_offset: Offset of the value of the pixel element; None if the file ends without one.
        pixel_length: Its length in bytes; None if it is encapsulated.
        is_cut: True if the file ends inside the header.
    """

    values: dict[int, bytes]
    syntax: str
    pixel_offset: int | None
    pixel_length: int | None
    is_cut: bool = False


def is_dicom(prefix: bytes) -> bool:
    """True if a file starts like DICOM: the magic word, or a bare data set that starts with group 2 or 8."""
    if prefix[128:PREAMBLE] == b"DICM":
        return True
    if len(prefix) < 8:
        return False
    group, element = struct.unpack_from("<HH", prefix)
    if group not in (2, 8) or element > 0x20:
        return False
    length = struct.unpack_from("<I", prefix, 4)[0]
    return prefix[4:6] in (b"UL", b"UI", b"CS", b"OB", b"DA", b"LO") or length < 512


def walk_header(data: bytes, total: int, wanted: Collection[int]) -> HeaderElements:
    """Walk a header up to its pixels.

    Args:
        data: The first bytes of the file.
        total: Size of the whole file.
        wanted: Tags whose values are kept.

    Raises:
        MoreBytesError: If more bytes are needed.
        UnwalkableError: If pydicom must read it.
    """
    offset = PREAMBLE if data[128:PREAMBLE] == b"DICM" else 0
    walk, syntax = _Walk(data, total), ""
    values: dict[int, bytes] = {}
    try:
        offset = walk.elements(offset, values, {TRANSFER_SYNTAX, *wanted}, explicit=True, meta=True)
        syntax = text_of(values.get(TRANSFER_SYNTAX, b"")) or _guessed_syntax(data, offset)
        if syntax in _NOT_WALKED:
            raise UnwalkableError(syntax)
        offset = walk.elements(offset, values, wanted, explicit=syntax != _IMPLICIT, meta=False)
        if offset >= total:
            return HeaderElements(values, syntax, None, None)
        _, length, start = walk.head(offset, explicit=syntax != _IMPLICIT)
    except EOFError:
        return HeaderElements(values, syntax, None, None, is_cut=True)
    return HeaderElements(values, syntax, start, None if length == _UNDEFINED else length)


def text_of(value: bytes) -> str:
    """A value of letters and digits (UID, code string, number) without padding."""
    return value.decode("latin-1").strip(" \0")


def _guessed_syntax(data: bytes, offset: int) -> str:
    """Syntax of a data set without meta header: explicit if the first element names a representation."""
    named = data[offset + 4 : offset + 6]
    return "1.2.840.10008.1.2.1" if named.isalpha() and named.isupper() else _IMPLICIT


class _Walk:
    def __init__(self, data: bytes, total: int) -> None:
        self._data, self._total = data, total

    def elements(
        self, offset: int, values: dict[int, bytes], wanted: Collection[int], *, explicit: bool, meta: bool
    ) -> int:
        """Walk until the pixels (or, for the meta header, until group 2 ends); returns the offset reached."""
        last = 0
        while offset < self._total:
            if meta and self._u16(offset) != 2:
                return offset
            tag, length, start = self.head(offset, explicit=explicit)
            if tag in PIXEL_TAGS:
                return offset
            if tag <= last:
                msg = f"element {tag:08x} after {last:08x}"
                raise UnwalkableError(msg)
            last = tag
            if length == _UNDEFINED:
                if tag in wanted:
                    values[tag] = b""
                offset = self._sequence_end(start, explicit=explicit, depth=0)
                continue
            if start + length > self._total:
                raise EOFError
            if tag in wanted:
                if start + length > len(self._data):
                    raise MoreBytesError
                values[tag] = self._data[start : start + length]
            offset = start + length
        return offset

    def head(self, offset: int, *, explicit: bool) -> tuple[int, int, int]:
        """Tag, length and offset of the value."""
        if offset + 12 > len(self._data):
            if len(self._data) < self._total:
                raise MoreBytesError
            if offset + 8 > self._total:
                raise EOFError
        group, element = struct.unpack_from("<HH", self._data, offset)
        tag = group << 16 | element
        if not explicit or group == 0xFFFE:
            return tag, struct.unpack_from("<I", self._data, offset + 4)[0], offset + 8
        representation = self._data[offset + 4 : offset + 6]
        if representation in _LONG_FORM:
            if offset + 12 > self._total:
                raise EOFError
            return tag, struct.unpack_from("<I", self._data, offset + 8)[0], offset + 12
        if not (representation.isalpha() and representation.isupper()):
            msg = f"element {tag:08x} has the representation {representation!r}"
            raise UnwalkableError(msg)
        return tag, struct.unpack_from("<H", self._data, offset + 6)[0], offset + 8

    def _u16(self, offset: int) -> int:
        if offset + 2 > len(self._data):
            raise MoreBytesError if len(self._data) < self._total else EOFError
        value: int = struct.unpack_from("<H", self._data, offset)[0]
        return value

    def _sequence_end(self, offset: int, *, explicit: bool, depth: int) -> int:
        """Offset after a sequence of undefined length that starts at `offset`."""
        if depth > _MAX_DEPTH:
            msg = f"sequences nested more than {_MAX_DEPTH} deep"
            raise UnwalkableError(msg)
        while True:
            tag, length, start = self.head(offset, explicit=explicit)
            if tag == _SEQUENCE_END:
                return start
            if tag != _ITEM:
                msg = f"element {tag:08x} where an item of a sequence is expected"
                raise UnwalkableError(msg)
            offset = start + length if length != _UNDEFINED else self._item_end(start, explicit=explicit, depth=depth)
            if offset > self._total:
                raise EOFError

    def _item_end(self, offset: int, *, explicit: bool, depth: int) -> int:
        while True:
            tag, length, start = self.head(offset, explicit=explicit)
            if tag == _ITEM_END:
                return start
            if length == _UNDEFINED:
                offset = self._sequence_end(start, explicit=explicit, depth=depth + 1)
            else:
                offset = start + length
            if offset > self._total:
                raise EOFError
