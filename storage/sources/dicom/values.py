"""Values of a header by name, read by our walk over its bytes or by pydicom."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pydicom
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from storage.sources.dicom.elements import HeaderElements, text_of

_TAGS = {
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
    "frame_groups": 0x52009230,
}

_OF_PATIENTS = frozenset({"patient_name", "patient_id", "issuer", "birth_date"})

WANTED_TAGS = frozenset(_TAGS.values())
"""Tags that are read from a header."""
FRAME_GROUPS_TAG = _TAGS["frame_groups"]
"""PerFrameFunctionalGroupsSequence, which holds the positions of frames."""


class HeaderValues(Protocol):
    """Values of one header by our names of their tags; absent or invalid ones are empty text and 0."""

    def text(self, name: str) -> str:
        """As text, several values separated by a backslash."""
        ...

    def number(self, name: str) -> int:
        """As an unsigned number of 16 bits."""
        ...


@dataclass(frozen=True, slots=True)
class WalkedValues:
    """Values of a walked header: bytes, decoded on request."""

    elements: HeaderElements

    def text(self, name: str) -> str:
        """Text of an element; names of persons are decoded by the character set of the file."""
        value = self.elements.values.get(_TAGS[name], b"")
        if name in ("patient_name", "patient_id") and not value.isascii():
            return _decoded(value, text_of(self.elements.values.get(_TAGS["charset"], b"")))
        if name == "b_value":
            return value.hex()
        return text_of(value)

    def number(self, name: str) -> int:
        """Number of an element."""
        value = self.elements.values.get(_TAGS[name], b"")
        return int(struct.unpack_from("<H", value)[0]) if len(value) >= 2 else 0


@dataclass(frozen=True, slots=True)
class ParsedValues:
    """Values of a header that pydicom parsed."""

    data: Dataset

    def _value(self, name: str) -> Any:
        """Value of an element as pydicom decodes it; its bytes as text if it cannot."""
        for source in (self.data, getattr(self.data, "file_meta", Dataset())):
            if _TAGS[name] in source:
                try:
                    return source[_TAGS[name]].value
                except Exception:  # noqa: BLE001 - an infinite number, an unknown representation: see `first_odd`
                    return _as_text(source.get_item(_TAGS[name]).value)
        return None

    def first_odd(self) -> str | None:
        """The first element that pydicom cannot decode: its keyword and, unless it identifies a patient, its value."""
        for name, tag in _TAGS.items():
            try:
                self.data.get(tag)
            except Exception:  # noqa: BLE001 - the same
                shown = "" if name in _OF_PATIENTS else f" {self.text(name)!r}"
                return f"{keyword_for_tag(tag)}{shown}"
        return None

    def text(self, name: str) -> str:
        """Text of an element; names of persons are decoded by the character set of the file."""
        value = self._value(name)
        if value is None:
            return ""
        return "\\".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)

    def number(self, name: str) -> int:
        """Number of an element."""
        value = self._value(name)
        return int(value) if isinstance(value, int) else 0


def _as_text(value: object) -> str:
    return text_of(value) if isinstance(value, bytes) else ""


def _decoded(value: bytes, charset: str) -> str:
    """A name in its character set; latin-1 if that set is unknown."""
    try:
        encodings = pydicom.charset.convert_encodings(charset.split("\\") if charset else None)
        return str(pydicom.valuerep.PersonName(value, encodings))
    except (LookupError, ValueError, UnicodeError):
        return value.decode("latin-1").strip(" \0")


def numbers(text: str) -> tuple[float, ...]:
    """Numbers of a decimal text with several values; empty if the text is empty or a value is not a number."""
    try:
        return tuple(float(part) for part in text.split("\\")) if text else ()
    except ValueError:
        return ()


def first_number(text: str, default: float) -> float:
    """The first number of a text, or the default if it has none."""
    found = numbers(text)
    return found[0] if found else default
