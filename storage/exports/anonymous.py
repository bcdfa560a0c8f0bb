"""DICOM attributes kept in anonymous output: UIDs, geometry and compression.

Attributes are kept by a list, not removed by one: the standard has hundreds of attributes that can name a patient, and
private ones come on top.
"""

from contextlib import suppress

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_NUMBERS = (
    "Rows", "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "SpacingBetweenSlices", "LossyImageCompressionRatio",
)  # fmt: skip
_NESTED = (
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PlanePositionSequence",
    "PlaneOrientationSequence", "PixelMeasuresSequence",
)  # fmt: skip
_COMPRESSIONS = frozenset(
    {"ISO_10918_1", "ISO_14495_1", "ISO_15444_1", "ISO_15444_15", "ISO_13818_2", "ISO_14496_10", "ISO_23008_2"}
)


def nameless_header(data: Dataset) -> Dataset:
    """Copy UIDs, geometry and compression of a header, nothing else; malformed values are left out. Texts are UTF-8."""
    kept = _numbers(data)
    kept.SpecificCharacterSet = "ISO_IR 192"
    meta = getattr(data, "file_meta", Dataset())
    for keyword in _UIDS:
        found = [UID(str(value or "")) for value in (data.get(keyword), meta.get(f"MediaStorage{keyword}"))]
        if valid := [uid for uid in found if uid.is_valid]:
            setattr(kept, keyword, valid[0])
    if data.get("LossyImageCompression") == "01":
        kept.LossyImageCompression = "01"
        methods = data.get("LossyImageCompressionMethod") or ()
        methods = [methods] if isinstance(methods, str) else list(methods)
        if methods and _COMPRESSIONS.issuperset(methods):
            kept.LossyImageCompressionMethod = methods
    return kept


def _numbers(data: Dataset) -> Dataset:
    kept = Dataset()
    for keyword in _NUMBERS:
        with suppress(ValueError, TypeError):  # a text where a number belongs
            if (value := data.get(keyword)) not in (None, ""):
                setattr(kept, keyword, value)
    for keyword in _NESTED:
        if keyword in data:
            setattr(kept, keyword, Sequence([_numbers(item) for item in data[keyword].value]))
    return kept
