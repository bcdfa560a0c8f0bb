"""Preflight of a source: counts, sizes, errors and suspicions."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from medsam3_core.cases.cases import CaseSource
from medsam3_core.cases.findings import Finding, FindingKind
from medsam3_core.cases.recipes import Recipe
from storage.cohorts.checks import CaseCheck
from storage.cohorts.image_hashes import known_images
from storage.ingest.duplicates import find_duplicates
from storage.ingest.inventory import SourceInventory, take_inventory
from storage.store.layout import StoreLayout
from storage.store.locations import absolute, location

_ORDER = {kind: number for number, kind in enumerate(FindingKind)}


@dataclass(frozen=True, slots=True)
class Preflight:
    """Result of `ingest --check`.

    Attributes:
        source: Source as given.
        checks: One per case.
        files: Files of the source.
        findings: Errors and suspicions, by kind.
        notes: Remarks that are no errors.
        compared_cohorts: Cohorts of the store that were searched for duplicates.
    """

    source: str
    recipe: Recipe
    checks: tuple[CaseCheck, ...]
    files: SourceInventory
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    compared_cohorts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; kinds of findings and keys are a contract."""
        return {
            "source": self.source,
            "recipe": self.recipe.name,
            "layout": self.recipe.layout,
            "passed": not self.findings,
            "cases": len(self.checks),
            "usable": sum(check.usable for check in self.checks),
            "patients": len({check.patient_id for check in self.checks}),
            "splits": self.splits(),
            "structures": self.structures(),
            "raters": self.raters(),
            "modalities": dict(sorted(Counter(check.modality for check in self.checks if check.modality).items())),
            "sizes": [{"shape_zyx": list(size), "cases": count} for size, count in self.sizes().most_common()],
            "spacings": [
                {"spacing_zyx": list(spacing), "unit": unit, "cases": count}
                for (spacing, unit), count in self.spacings().most_common()
            ],
            "files": asdict(self.files),
            "compared_cohorts": list(self.compared_cohorts),
            "findings": [asdict(finding) for finding in self.findings],
            "counts": dict(Counter(str(finding.kind) for finding in self.findings)),
            "notes": list(self.notes),
        }

    def splits(self) -> dict[str, dict[str, int]]:
        """Cases and patients per split; `none` for cases without one."""
        patients: dict[str, list[str]] = defaultdict(list)
        for check in self.checks:
            patients[check.split or "none"].append(check.patient_id)
        return {split: {"cases": len(ids), "patients": len(set(ids))} for split, ids in sorted(patients.items())}

    def structures(self) -> dict[str, dict[str, int]]:
        """Cases with each structure of the recipe, and its instances over all cases."""
        found = {}
        for item in self.recipe.structures:
            counts = [check.structures.get(item.name, 0) for check in self.checks]
            found[item.name] = {"cases": sum(count > 0 for count in counts), "instances": sum(counts)}
        return found

    def raters(self) -> dict[str, int]:
        """Cases per rater."""
        return dict(Counter(rater for check in self.checks for rater in check.raters))

    def sizes(self) -> Counter[tuple[int, int, int]]:
        """Cases per size."""
        return Counter(check.shape_zyx for check in self.checks if check.shape_zyx)

    def spacings(self) -> Counter[tuple[tuple[float, ...], str]]:
        """Cases per spacing, rounded to a micrometre."""
        return Counter(
            (tuple(round(value, 3) for value in check.spacing_zyx), check.unit or "")
            for check in self.checks
            if check.spacing_zyx
        )


def conclude(
    source: str, recipe: Recipe, cases: Sequence[CaseSource], checks: Sequence[CaseCheck], store: StoreLayout | None
) -> Preflight:
    """Combine the checks of all listed cases; the cohorts of `store`, if given, are searched for the same images."""
    root = source if source.startswith("phantom:") else absolute(source)
    files = take_inventory(location(source), cases, recipe)
    known = known_images(store, but_not_from=root) if store is not None else []
    findings = [finding for check in checks for finding in check.findings]
    findings += find_duplicates(checks, known)
    findings += _patients_in_splits(checks)
    findings += [
        Finding(FindingKind.EXTRA_FILE, f"{name} is part of no case; remove it, or name it in companions of the recipe")
        for name in files.extra
    ]
    return Preflight(
        source,
        recipe,
        tuple(checks),
        files,
        tuple(sorted(findings, key=lambda finding: (_ORDER[finding.kind], finding.case_ids, finding.message))),
        tuple(_notes(recipe, cases, checks, files)),
        tuple(sorted({item.cohort for item in known})),
    )


def _patients_in_splits(checks: Sequence[CaseCheck]) -> list[Finding]:
    splits: dict[str, set[str]] = defaultdict(set)
    cases: dict[str, list[str]] = defaultdict(list)
    for check in checks:
        if check.split:
            splits[check.patient_id].add(check.split)
            cases[check.patient_id].append(check.case_id)
    return [
        Finding(
            FindingKind.PATIENT_IN_SPLITS,
            f"patient {patient} has cases in the splits {', '.join(sorted(found))}; split by patient",
            tuple(cases[patient]),
        )
        for patient, found in splits.items()
        if len(found) > 1
    ]


def _notes(
    recipe: Recipe, cases: Sequence[CaseSource], checks: Sequence[CaseCheck], files: SourceInventory
) -> list[str]:
    notes = []
    splits = Counter(check.split or "none" for check in checks)
    for split, expected in recipe.published_cases.items():
        found = len(checks) if split == "all" else splits[split]
        if found != expected:
            notes.append(f"{found} of {expected} published cases{'' if split == 'all' else f' in split {split}'}")
    for item in recipe.parameters.get("references", [])[1:]:  # a case needs no file of other raters than the first
        rater = str(item.get("rater", "reference"))
        drawn = sum(rater in case.references for case in cases)
        if drawn < len(cases):
            notes.append(f"rater {rater} drew {drawn} of {len(cases)} cases")
    splits_of: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        if case.split and case.image:
            splits_of[PurePosixPath(case.image[0]).name].add(case.split)
    if repeated := sum(len(found) > 1 for found in splits_of.values()):
        notes.append(f"{repeated} file names occur in several splits; the split is part of the case id")
    if contested := [check.contested for check in checks if check.contested]:
        notes.append(
            f"{sum(contested)} pixels in {len(contested)} cases lie in two instances; one of the two keeps each of them"
        )
    if files.companions:
        notes.append(f"{files.companions} files belong to the dataset but to no case")
    if files.others:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in files.others.items())
        notes.append(f"other files: {listed}")
    if files.system:
        notes.append(f"{files.system} hidden and system files are ignored")
    return notes + [f"trap: {trap}" for trap in recipe.traps]
