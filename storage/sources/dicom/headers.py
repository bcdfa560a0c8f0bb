"""The header of one DICOM file: its kind, series and position, without pixels.

Names, birth dates and free text are used only to remove them from paths and to derive a pseudonym; headers made here do
not hold them.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from medsam3_core.cases.series_geometry import SeriesFault, SlicePlace
from storage.sources.dicom.values import HeaderValues, first_number, numbers
from storage.store.pseudonyms import Pseudonyms, identity_words

_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_DIRECTORY = "1.2.840.10008.1.3.10"
PALETTE = "PALETTE COLOR"


class HeaderKind(StrEnum):
    """Kind of content of a DICOM file."""

    IMAGE = "image"
    SEGMENTATION = "segmentation"
    DIRECTORY = "directory"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Rescale:
    """Mapping of stored values to values of the modality: `stored * slope + intercept`."""

    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """Storage format of pixels."""

    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    is_signed: bool

    @property
    def is_colour(self) -> bool:
        """True if voxels are colours: several samples, or entries of a palette."""
        return self.samples > 1 or self.photometric == PALETTE

    @property
    def bytes_per_voxel(self) -> int:
        """Bytes of one voxel with all its samples."""
        return max(1, self.samples) * max(1, -(-self.bits_allocated // 8))


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """Attributes of one file that the archive reader keeps.

    Attributes:
        file: Path relative to the source.
        kind: Kind of content.
        study_uid: UID of the study; all UIDs are empty if the file has none.
        series_uid: UID of the series.
        sop_uid: UID of this object; from the meta header if the data set has none.
        sop_class: UID of its class.
        frame_of_reference: Coordinate system that positions are relative to.
        modality: CT, MR, ...
        series_number: As text.
        phase: Values that distinguish volumes of one series: acquisition, time point, echo, b-value.
        frames: Number of frames that it declares.
        places: One, or one per frame if frames have their own positions.
        rescales: One per place.
        pixels: Storage format of the pixels.
        patient: Pseudonym; empty if the file names no patient.
        is_enhanced: True if places and rescales come from functional groups.
        hidden: Parts of the path that name the patient, each with its replacement.
        fault: Fault that makes this file unusable, or None.
        detail: Finding in words, for the reason of a rejection.
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
    is_enhanced: bool = False
    hidden: tuple[tuple[str, str], ...] = ()
    fault: SeriesFault | None = None
    detail: str = ""

    @property
    def declared_bytes(self) -> int:
        """Size of the decoded pixels as the header declares it."""
        rows, columns = self.places[0].shape_yx if self.places else (0, 0)
        return self.frames * rows * columns * self.pixels.bytes_per_voxel


def make_header(file: str, values: HeaderValues, pseudonyms: Pseudonyms) -> DicomHeader:
    """Header of a file with these values; the patient is replaced by a pseudonym."""
    name, patient_id, birth = values.text("patient_name"), values.text("patient_id"), values.text("birth_date")
    words = identity_words(name, patient_id, birth)
    shown = [(part, pseudonyms.hide(part, words)) for part in file.split("/")] if words else []
    identity = (values.text("issuer"), patient_id) if patient_id else (name, birth)
    rows, columns = values.number("rows"), values.number("columns")
    sop_class = values.text("sop_class") or values.text("meta_class")
    odd = _odd_number(values)
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
        frames=1 if odd else max(1, int(first_number(values.text("frames"), 1))),
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
        fault=SeriesFault.ODD_HEADER if odd else None,
        detail=odd_header(file, odd) if odd else "",
    )


def _odd_number(values: HeaderValues) -> str:
    """The first value that must be a number or absent and is neither; empty if there is none."""
    for name, keyword in (("frames", "NumberOfFrames"), ("slope", "RescaleSlope"), ("intercept", "RescaleIntercept")):
        text = values.text(name)
        if text and not math.isfinite(first_number(text, math.nan)):
            return f"{keyword} {text!r}"
    return ""


def odd_header(file: str, found: str) -> str:
    """Reason of a rejection for an invalid value in a header."""
    return f"{file} has the invalid {found}; correct it or export the series again"


def _place(name: str, values: HeaderValues, shape: tuple[int, int]) -> SlicePlace:
    position, spacing = numbers(values.text("position")), numbers(values.text("pixel_spacing"))
    return SlicePlace(
        name,
        shape,
        (position[0], position[1], position[2]) if len(position) == 3 else None,
        numbers(values.text("orientation")) or None,
        (spacing[0], spacing[1]) if len(spacing) == 2 else None,
        first_number(values.text("thickness"), 0.0),
        "LOCALIZER" in values.text("image_type").upper().split("\\"),
    )


def _rescale(values: HeaderValues) -> Rescale:
    slope = first_number(values.text("slope"), 1.0)
    return Rescale(slope if slope != 0 else 1.0, first_number(values.text("intercept"), 0.0))


def _kind(sop_class: str, pixels: int) -> HeaderKind:
    if sop_class == _SEGMENTATION:
        return HeaderKind.SEGMENTATION
    if sop_class == _DIRECTORY:
        return HeaderKind.DIRECTORY
    return HeaderKind.IMAGE if pixels else HeaderKind.OTHER
