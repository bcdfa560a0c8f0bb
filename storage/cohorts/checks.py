"""Check of one case of a source for a preflight."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.findings import Finding, FindingKind
from medsam3_core.cases.perceptual_hash import perceptual_hash
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import LabelMap
from medsam3_core.errors import CaseDataError, LabelValueError, NotBinaryError, ShapeMismatchError, UnreadableFileError
from storage.sources.listing.files import open_source
from storage.sources.listing.layout import Layout
from storage.sources.reading import read_case

_KINDS: tuple[tuple[type[CaseDataError], FindingKind], ...] = (
    (NotBinaryError, FindingKind.NOT_BINARY),
    (LabelValueError, FindingKind.LABEL_VALUE),
    (ShapeMismatchError, FindingKind.SHAPE_MISMATCH),
    (UnreadableFileError, FindingKind.UNREADABLE),
)


@dataclass(frozen=True, slots=True)
class CaseCheck:
    """Result of reading a case; small and picklable.

    Attributes:
        usable: True if ingest would accept the case.
        findings: Errors and suspicions.
        shape_zyx: Size; None, as all below, for cases that could not be read.
        spacing_zyx: Spacing in `unit`, mm or px.
        raters: Raters with a reference, the primary one first.
        structures: Structures in the primary reference, with the number of instances (1 without instances).
        contested: Pixels claimed by two instances of one structure.
        image_digest: Digest of the voxels.
        image_hash: Perceptual hash, None for images without structure.
    """

    case_id: str
    split: str | None
    patient_id: str
    usable: bool
    findings: tuple[Finding, ...] = ()
    shape_zyx: tuple[int, int, int] | None = None
    spacing_zyx: tuple[float, float, float] | None = None
    unit: str | None = None
    modality: str | None = None
    raters: tuple[str, ...] = ()
    structures: dict[str, int] = field(default_factory=dict)
    contested: int = 0
    image_digest: str | None = None
    image_hash: bytes | None = None


def check_case(layout: Layout, source: Path, case: CaseSource, recipe: Recipe) -> CaseCheck:
    """Read a case as ingest would and check it; never raises for its data."""
    if case.reject_reason:
        return _unusable(case, case.reject_kind, case.reject_reason)
    try:
        volume = read_case(layout, source, case, recipe)
    except CaseDataError as error:
        if _is_same_file(source, case):
            return _unusable(case, FindingKind.REFERENCE_IS_IMAGE, _same_message(case))
        kind = next((kind for known, kind in _KINDS if isinstance(error, known)), FindingKind.REJECTED)
        return _unusable(case, kind, str(error))
    except (OSError, MemoryError) as error:
        return _unusable(case, FindingKind.UNREADABLE, f"{', '.join(case.image)}: {error or type(error).__name__}")
    return CaseCheck(
        case.case_id,
        case.split,
        case.patient_id,
        usable=True,
        findings=tuple(_suspicions(case, volume, recipe)),
        shape_zyx=volume.geometry.shape_zyx,
        spacing_zyx=volume.geometry.spacing_zyx,
        unit=str(volume.geometry.unit),
        modality=volume.modality,
        raters=tuple(reference.rater for reference in volume.references),
        structures=_structures(volume.references[0], recipe) if volume.references else {},
        contested=int(volume.attributes.get("overlapping_pixels", 0)),
        image_digest=image_digest(volume),
        image_hash=perceptual_hash(volume.voxels),
    )


def image_digest(volume: CaseVolume) -> str:
    """Digest of shape, type and voxels, for finding equal images; 32 hex digits."""
    return volume.voxels_digest[:32]


def _unusable(case: CaseSource, kind: FindingKind, message: str) -> CaseCheck:
    finding = Finding(kind, message, (case.case_id,))
    return CaseCheck(case.case_id, case.split, case.patient_id, usable=False, findings=(finding,))


def _suspicions(case: CaseSource, volume: CaseVolume, recipe: Recipe) -> list[Finding]:
    found = []
    for reference in volume.references:
        files = ", ".join(case.references.get(reference.rater, ())[:3]) or reference.rater
        drawn = int(np.count_nonzero(reference.voxels))
        if not reference.entries or not drawn:
            if not recipe.negatives:
                message = f"{files} marks nothing; correct it, or set negatives in the recipe if that is right"
                found.append(Finding(FindingKind.EMPTY_REFERENCE, message, (case.case_id,)))
        elif drawn == reference.voxels.size:
            message = f"{files} marks every pixel; it may be inverted or the mask of something else"
            found.append(Finding(FindingKind.FULL_REFERENCE, message, (case.case_id,)))
        if drawn and _is_image(volume.voxels, reference):
            found.append(Finding(FindingKind.REFERENCE_IS_IMAGE, _same_message(case), (case.case_id,)))
    return found


def _is_image(voxels: NDArray[Any], reference: LabelMap) -> bool:
    """True if the image equals its reference: the same values, or the mask in two other values."""
    grey = voxels if voxels.ndim == 3 else voxels[0]
    if voxels.ndim == 4 and not (voxels == grey[None]).all():
        return False
    low, high = grey.min(), grey.max()
    foreground = reference.voxels > 0
    if low == high or not bool(foreground.flat[int(grey.argmax())]):
        return False
    return bool(np.array_equal(grey, reference.voxels)) or bool(np.array_equal(np.where(foreground, high, low), grey))


def _structures(reference: LabelMap, recipe: Recipe) -> dict[str, int]:
    present = np.zeros(int(reference.voxels.max(initial=0)) + 1, dtype=bool)
    present[reference.voxels.reshape(-1)] = True
    instances: dict[str, set[int]] = {}
    for entry in reference.entries:
        if entry.value < present.size and present[entry.value]:
            instances.setdefault(entry.structure, set()).add(entry.instance)
    order = [item.name for item in recipe.structures]
    return {name: len(instances[name]) for name in sorted(instances, key=order.index)}


def _is_same_file(source: Path, case: CaseSource) -> bool:
    """True if a reference file has the bytes of an image file."""
    references = [name for names in case.references.values() for name in names if name not in case.image]
    try:
        image = [_file_digest(source / name) for name in case.image]
        return any(_file_digest(source / name) in image for name in references)
    except OSError:
        return False


def _file_digest(path: Path) -> str:
    with open_source(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _same_message(case: CaseSource) -> str:
    files: Sequence[str] = [name for names in case.references.values() for name in names]
    return f"{', '.join(files[:3])} is the image {', '.join(case.image[:3])} itself; find the mask of this image"
