"""The training manifest: one row per case, slice and concept of a cohort, without pixels.

A row without instances is a negative. Masks are read from the references in the store: an instance is its number in the
label map of its case.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsam3_core.cases.cases import CaseStatus
from medsam3_core.cases.recipes import Recipe
from medsam3_core.digests import digest_json, seed_from
from medsam3_core.errors import UsageError
from medsam3_core.training.plans import CohortPlan, TrainingPlan, UnionPlan
from storage.cohorts.cohorts import CaseRef, case_refs, cohort_names, latest_cases, read_cohort
from storage.cohorts.image_hashes import newest_image_digests
from storage.cohorts.volumes import open_case_volume
from storage.store.layout import StoreLayout
from storage.store.schemas import TRAINING
from storage.store.tables import write_rows
from storage.training.slices import ConceptDefinition, concept_labels, recipe_concepts

BENCHMARK_SPLIT = "test"
TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True, eq=False)
class TrainingCohort:
    """A cohort to train on: its concepts, and cases for training and validation, of different patients."""

    plan: CohortPlan
    recipe: Recipe
    concepts: tuple[ConceptDefinition, ...]
    train: tuple[CaseRef, ...]
    validation: tuple[CaseRef, ...]


@dataclass(frozen=True, eq=False)
class Manifest:
    """Rows by cohort and split."""

    rows: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]

    @property
    def digest(self) -> str:
        """SHA-256 over all rows."""
        return digest_json([[cohort, split, digest_json(rows)] for (cohort, split), rows in sorted(self.rows.items())])

    def balance(self) -> list[dict[str, Any]]:
        """Frequency of every concept, see `balance_report`."""
        return balance_report(row for rows in self.rows.values() for row in rows)


def select_cases(store: StoreLayout, plan: TrainingPlan) -> list[TrainingCohort]:
    """Cases of every cohort of a plan, split by patient.

    Raises:
        UsageError: If a cohort does not exist, is named twice or has no cases left, or a case belongs to a benchmark.
    """
    names = [cohort.cohort for cohort in plan.cohorts]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        msg = f"cohort {doubled[0]!r} has several entries in the configuration; give it one"
        raise UsageError(msg)
    selected = [_selected(store, cohort, plan.seed) for cohort in plan.cohorts]
    _refuse_benchmark_cases(store, selected)
    return selected


def build_manifest(store: StoreLayout, cohorts: Sequence[TrainingCohort]) -> Manifest:
    """Rows of all cases; reads every reference once."""
    return Manifest(
        {
            (cohort.plan.cohort, split): [row for case in cases for row in manifest_rows(store, case, cohort, split)]
            for cohort in cohorts
            for split, cases in ((TRAIN, cohort.train), (VALIDATION, cohort.validation))
            if cases
        }
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest as Parquet, one file per cohort and split."""
    for (cohort, split), rows in manifest.rows.items():
        write_rows(folder, rows, TRAINING, name=f"{cohort}-{split}")


def manifest_rows(store: StoreLayout, case: CaseRef, cohort: TrainingCohort, split: str) -> list[dict[str, Any]]:
    """Rows of one case."""
    volume = open_case_volume(store.volume(case.cohort, case.case_id, zipped=case.ndim == 2))
    reference = volume.reference(case.raters[0])
    rows = []
    for concept in cohort.concepts:
        labels = concept_labels(reference, concept)
        values = {}
        if concept.countable:
            values = {e.instance: e.value for e in reference.entries if e.structure == concept.structures[0]}
        for z in range(0, len(labels), cohort.plan.every):
            instances = list(_instances(labels[z], values))
            rows.append(
                {
                    "cohort": case.cohort,
                    "case_id": case.case_id,
                    "case_digest": case.case_digest,
                    "patient_id": case.patient_id,
                    "split": split,
                    "slice": z,
                    "rater": case.raters[0],
                    "concept": concept.name,
                    "structures": list(concept.structures),
                    "text": concept.texts[0],
                    "synonyms": list(concept.texts[1:]),
                    "present": bool(instances),
                    "instances": instances,
                }
            )
    return rows


def balance_report(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Frequency of every concept: slices with and without it, instances, pixels and cases.

    Returns:
        One entry per (cohort, split, concept), sorted; `rarity` is the ratio of the commonest concept of the cohort
        to this one, by slices.
    """
    counts: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["cohort"], row["split"], row["concept"])
        one = counts.setdefault(key, {"slices": 0, "negatives": 0, "instances": 0, "pixels": 0, "cases": set()})
        one["slices" if row["present"] else "negatives"] += 1
        one["instances"] += len(row["instances"])
        one["pixels"] += sum(instance["area"] for instance in row["instances"])
        one["cases"].add(row["case_id"])
    most: dict[tuple[str, str], int] = {}
    for (cohort, split, _), one in counts.items():
        most[cohort, split] = max(most.get((cohort, split), 0), one["slices"])
    return [
        {"cohort": cohort, "split": split, "concept": concept}
        | {name: one[name] for name in ("slices", "negatives", "instances", "pixels")}
        | {"cases": len(one["cases"])}
        | {"rarity": round(most[cohort, split] / one["slices"], 2) if one["slices"] else None}
        for (cohort, split, concept), one in sorted(counts.items())
    ]


def _selected(store: StoreLayout, plan: CohortPlan, seed: int) -> TrainingCohort:
    recipe = read_cohort(store, plan.cohort).recipe
    cases = [
        case
        for case in case_refs(latest_cases(store, plan.cohort))
        if case.status is CaseStatus.ACCEPTED and case.raters and case.split in plan.splits
    ]
    cases = cases[: plan.limit] if plan.limit else cases
    patients = sorted({case.patient_id for case in cases})
    patients.sort(key=lambda patient: seed_from("validation", seed, plan.cohort, patient))
    kept_back = set(patients[: plan.validation])
    train = tuple(case for case in cases if case.patient_id not in kept_back)
    if not train:
        msg = (
            f"cohort {plan.cohort!r} has no case to train on in the splits {list(plan.splits)} with "
            f"{plan.validation} of {len(patients)} patients held out for validation; change splits or validation"
        )
        raise UsageError(msg)
    return TrainingCohort(
        plan,
        recipe,
        (*recipe_concepts(recipe, plan.synonyms), *(_union(recipe, union) for union in plan.unions)),
        train,
        tuple(case for case in cases if case.patient_id in kept_back),
    )


def _union(recipe: Recipe, union: UnionPlan) -> ConceptDefinition:
    windows = {recipe.structure(name).window for name in union.structures}
    window = windows.pop() if len(windows) == 1 else ""
    return ConceptDefinition(union.name, (union.text, *union.synonyms), union.structures, window=window)


def _refuse_benchmark_cases(store: StoreLayout, selected: Sequence[TrainingCohort]) -> None:
    """Refuse cases of a benchmark split, recognised by split, digest, voxels or patient."""
    held: dict[str, str] = {}
    images: dict[str, dict[str, str]] = {}
    for name in cohort_names(store):
        cases = case_refs(latest_cases(store, name))
        splits = {case.split for case in cases}
        images[name] = newest_image_digests(store, name)
        for case in cases:
            if case.split == BENCHMARK_SPLIT:
                held |= dict.fromkeys(_identities(case, images[name]), f"{name}/{case.case_id}")
        if BENCHMARK_SPLIT not in splits and (chosen := [one for one in selected if one.plan.cohort == name]):
            msg = (
                f"cohort {name!r} has no split {BENCHMARK_SPLIT!r}, so a benchmark takes all of its "
                f"{len(cases)} cases and none may be used for training (the configuration takes "
                f"{len(chosen[0].train)}); ingest it with a recipe that splits it, or as another cohort with "
                "--split train"
            )
            if None in splits:
                raise UsageError(msg)
    for cohort in selected:
        for case in (*cohort.train, *cohort.validation):
            identities = _identities(case, images[case.cohort])
            if hit := next((held[one] for one in identities if one in held), None):
                msg = (
                    f"case {case.cohort}/{case.case_id} may not be used for training: the benchmark split holds it as "
                    f"{hit}; leave the split {BENCHMARK_SPLIT!r} out of the configuration"
                )
                raise UsageError(msg)


def _identities(case: CaseRef, images: Mapping[str, str]) -> list[str]:
    """Identities of a case: its content, its patient in the cohort, and its voxels independent of the recipe."""
    voxels = images.get(case.case_id)
    return [case.case_digest, f"{case.cohort}/{case.patient_id}", *([voxels] if voxels else [])]


def _instances(labels: NDArray[np.uint16], values: Mapping[int, int]) -> Iterable[dict[str, int]]:
    areas = np.bincount(labels.ravel())
    for number, window in enumerate(ndimage.find_objects(labels), 1):
        if window is not None:
            rows, columns = window
            yield {
                "instance": number,
                "label_value": values.get(number, 0),
                "x0": columns.start,
                "y0": rows.start,
                "x1": columns.stop,
                "y1": rows.stop,
                "area": int(areas[number]),
            }
