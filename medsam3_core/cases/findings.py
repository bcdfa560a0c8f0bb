"""Findings of the preflight of a source."""

from dataclasses import dataclass
from enum import StrEnum


class FindingKind(StrEnum):
    """Kinds of findings; any finding ends a check with exit code 1."""

    UNREADABLE = "unreadable"
    MISSING_REFERENCE = "missing-reference"
    MISSING_IMAGE = "missing-image"
    DOUBLED_ID = "doubled-id"
    DOUBLED_REFERENCE = "doubled-reference"
    SHAPE_MISMATCH = "shape-mismatch"
    LABEL_VALUE = "label-value"
    NOT_BINARY = "not-binary"
    REFERENCE_IS_IMAGE = "reference-is-image"
    EMPTY_REFERENCE = "empty-reference"
    FULL_REFERENCE = "full-reference"
    DUPLICATE_IMAGE = "duplicate-image"
    SIMILAR_IMAGE = "similar-image"
    PATIENT_IN_SPLITS = "patient-in-splits"
    EXTRA_FILE = "extra-file"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault or a suspicious fact.

    Attributes:
        message: Culprit, value and remedy in a sentence.
        case_ids: Affected cases, those of other cohorts as `cohort:case_id`; empty for files without a case.
    """

    kind: FindingKind
    message: str
    case_ids: tuple[str, ...] = ()
