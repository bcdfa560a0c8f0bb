"""A prediction as a DICOM segmentation: BINARY, one segment per structure, references to the source instances.

Attributes that the standard requires and anonymised archives leave empty (UIDs, names) are filled in. UIDs derive from
the source, so that segmenting twice refers to the same study.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, generate_uid

from medsam3_core.cases.cases import CaseSource
from medsam3_core.errors import CaseDataError
from storage.exports.anonymous import nameless_header
from storage.exports.registry import NothingDrawnError
from storage.sources.dicom.reading import read_header
from storage.sources.dicom.series import prove_headers
from storage.store.pseudonyms import Pseudonyms

_CATEGORY = Code("123037004", "SCT", "Anatomical Structure")
_METHOD = Code("123110", "DCM", "Artificial Intelligence")
_EMPTY_IF_MISSING = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip


def write_segmentation(
    target: Path,
    source: Path,
    case: CaseSource,
    masks: Mapping[str, NDArray[np.bool_]],
    texts: Mapping[str, str],
    weights: str,
    *,
    anonymous: bool = False,
) -> None:
    """Write one file.

    Args:
        target: The file.
        source: Root of the source.
        case: The series; its files in any order.
        masks: Structure to mask, shape (z, y, x) in the slice order of the series.
        texts: Structure to its text.
        weights: `NAME@N`, as the algorithm.
        anonymous: Write the pseudonym of the case instead of the patient's id; keep only the attributes listed in
            `storage.exports.anonymous`.

    Raises:
        NothingDrawnError: If all masks are empty.
        CaseDataError: If the series has no position in patient coordinates.
    """
    if not any(mask.any() for mask in masks.values()):
        msg = "nothing was found, and a DICOM segmentation cannot be empty; see measurements"
        raise NothingDrawnError(msg)
    pseudonyms = Pseudonyms(b"")
    headers = [header for file in case.image if (header := read_header(source, file, pseudonyms)) is not None]
    if len(headers) != len(case.image):
        msg = f"{case.case_id}: source files are no longer DICOM; segment the source again"
        raise CaseDataError(msg)
    order = prove_headers(headers).order
    images = [_source_image(source / file, case, anonymous=anonymous) for file in case.image]
    stack = np.stack([mask.astype(np.uint8) for mask in masks.values()], axis=-1)
    stored = np.empty_like(stack)
    stored[list(order)] = stack  # back into the order of the files, or of the frames of one file
    name, _, version = weights.partition("@")
    algorithm = hd.AlgorithmIdentificationSequence(name or "medsam3", _METHOD, version or "1")
    segments = [
        hd.seg.SegmentDescription(
            number, structure[:64], _CATEGORY, _type_code(texts.get(structure, structure)), "AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, structure in enumerate(masks, start=1)
    ]  # fmt: skip
    with _known_kind(images[0]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings quote the patient's name
        segmentation = hd.seg.Segmentation(
            source_images=images,
            pixel_array=stored,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=generate_uid(),
            series_number=9000,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="medsam3",
            manufacturer_model_name=weights[:64],
            software_versions="medsam3",
            device_serial_number="0",
            content_label="SEGMENTATION",
            omit_empty_frames=True,
        )
    segmentation.save_as(target, enforce_file_format=True)


@contextmanager
def _known_kind(image: Dataset) -> Iterator[None]:
    """Refuse private SOP classes, which the tables of highdicom lack."""
    try:
        yield
    except KeyError as error:
        if error.args != (image.SOPClassUID,):
            raise
        msg = (
            f"the SOP class of the source ({image.SOPClassUID}) is private or unknown, a DICOM segmentation cannot "
            "refer to it; use nifti"
        )
        raise CaseDataError(msg) from error


def _type_code(text: str) -> Code:
    """The text as a code of a private scheme: no text is mapped to a clinical code by guessing."""
    return Code(f"T{hashlib.sha256(text.encode()).hexdigest()[:12]}", "99MEDSAM3", text[:64])


def _source_image(path: Path, case: CaseSource, *, anonymous: bool) -> Dataset:
    data: Dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    meta = getattr(data, "file_meta", Dataset())
    if anonymous:
        data, meta = nameless_header(data), Dataset()
        data.PatientID = case.patient_id
    filled = {
        "SOPClassUID": meta.get("MediaStorageSOPClassUID", ""),
        "SOPInstanceUID": meta.get("MediaStorageSOPInstanceUID", ""),
        "StudyInstanceUID": _derived_uid("study", case.case_id, *case.image[:1]),
        "SeriesInstanceUID": _derived_uid("series", case.case_id, *case.image[:1]),
        "FrameOfReferenceUID": _derived_uid("space", case.case_id, *case.image[:1]),
    }
    for keyword, value in filled.items():
        if not data.get(keyword):
            setattr(data, keyword, value or _derived_uid(keyword, case.case_id, path.name))
    for keyword in _EMPTY_IF_MISSING:
        if keyword not in data:
            setattr(data, keyword, "")
    return data


def _derived_uid(*parts: str) -> UID:
    """A UID derived from its parts, below the root for UUIDs."""
    return UID(f"2.25.{int(hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32], 16)}")
