"""Turn the findings of a layout into a list of cases: ids, duplicate ids, patients and splits."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from medsam3_core.cases.cases import CaseSource, slug_case_id
from medsam3_core.cases.findings import FindingKind
from medsam3_core.cases.recipes import Recipe, SplitRule


@dataclass(frozen=True, slots=True)
class FoundCase:
    """A case as found in the files of a source.

    Attributes:
        key: Identifies it in the source, such as its path without folder of the layout and extension.
        image: Image files relative to the source; empty if only a reference was found.
        references: Rater to reference files.
        split: The layout's own split, or None.
        reject_reason: Reason why it cannot be used, or None.
        patient: Patient as the source names it, or None.
        extra: Further values that the layout needs to read it, JSON values only.
        reject_kind: Kind of finding behind the reject_reason.
    """

    key: str
    image: tuple[str, ...]
    references: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    split: str | None = None
    reject_reason: str | None = None
    patient: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    reject_kind: FindingKind = FindingKind.REJECTED

    @property
    def origin(self) -> str:
        """File that names the case in messages."""
        files = self.image or tuple(name for names in self.references.values() for name in names)
        return files[0] if files else self.key


def to_case_sources(found: Iterable[FoundCase], recipe: Recipe) -> list[CaseSource]:
    """Cases in sorted order of case_id.

    Of cases with the same id the first in order of path is kept; the others are listed as rejected, under the id with
    six hash characters of their path. A key without the patient that `patient_pattern` asks for is rejected.
    """
    first_with_id: dict[str, FoundCase] = {}
    taken: set[str] = set()
    cases: list[CaseSource] = []
    for item in sorted(found, key=lambda item: (item.key, not item.image, item.origin)):
        case_id = slug_case_id(item.key)
        first = first_with_id.setdefault(case_id, item)
        if first is not item:
            reason = f"{item.origin}: case id {case_id!r} is taken by {first.origin}; rename or remove one of them"
            case_id = _free_id(case_id, item.origin, taken)
            item = replace(item, reject_reason=reason, reject_kind=FindingKind.DOUBLED_ID)
        taken.add(case_id)
        cases.append(_case_source(item, case_id, recipe))
    cases = _with_splits(cases, recipe.split)
    if recipe.trained_weights:
        cases = [replace(case, seen_by=tuple(recipe.seen_by(case.split))) for case in cases]
    return sorted(cases, key=lambda case: case.case_id)


def _free_id(case_id: str, origin: str, taken: set[str]) -> str:
    """Id with six hash characters of the path, or of path and count if an index names one file many times."""
    candidate, count = case_id, 1
    while candidate == case_id or candidate in taken:
        path = origin if count == 1 else f"{origin}#{count}"
        candidate = f"{case_id}-{hashlib.sha256(path.encode()).hexdigest()[:6]}"
        count += 1
    return candidate


def _case_source(item: FoundCase, case_id: str, recipe: Recipe) -> CaseSource:
    patient_id, reason = item.patient or case_id, item.reject_reason
    if recipe.patient_pattern is not None and item.patient is None:
        match = re.search(recipe.patient_pattern, item.key)
        if match and match.group(1):
            patient_id = match.group(1)
        else:
            reason = reason or (
                f"{item.origin}: no patient found in key {item.key!r} by the pattern {recipe.patient_pattern!r}; "
                "rename the file or correct patient_pattern in the recipe"
            )
    return CaseSource(
        case_id,
        patient_id,
        item.split,
        item.image,
        item.references,
        item.extra,
        reason,
        reject_kind=item.reject_kind,
    )


def _with_splits(cases: list[CaseSource], rule: SplitRule) -> list[CaseSource]:
    if rule.test_pattern is not None:
        pattern = re.compile(rule.test_pattern)
        test = {case.patient_id for case in cases if pattern.fullmatch(case.patient_id)}
    elif rule.test_last:
        test = set(sorted({case.patient_id for case in cases})[-rule.test_last :])
    else:
        return cases
    return [replace(case, split="test" if case.patient_id in test else "train") for case in cases]
