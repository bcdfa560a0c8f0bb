"""The leak guard: cases are marked with the weights that were trained on them.

The training cases of weights are recorded with the digests of their images (`weights/learned-from/<sha256>.parquet`),
and all matching cases of the store are marked. Cohorts ingested later are compared with these lists, and with those of
shipped weights, at the end of their ingest. Recipes name the public weights trained on a case. Scores of weights on
cases marked with them are `in_training`: counted on the leaderboard and left out of its means.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from storage.cohorts.cohorts import CaseRef, cohort_names, read_cohort, write_cases
from storage.cohorts.image_hashes import newest_image_digests
from storage.store.layout import StoreLayout, utc_now
from storage.store.schemas import CASES
from storage.store.tables import read_table, rows_of_cases, write_rows
from storage.weights.shipped import shipped_training_digests

LEARNED_FROM = pa.schema(
    [
        pa.field("weights_sha256", pa.string(), metadata={"description": "weights that were trained"}),
        pa.field("cohort", pa.string(), metadata={"description": "cohort of the case"}),
        pa.field("recipe", pa.string(), metadata={"description": "recipe of the cohort: whose patients these are"}),
        pa.field("case_id", pa.string(), metadata={"description": "case"}),
        pa.field("case_digest", pa.string(), metadata={"description": "digest of the case as it was learned from"}),
        pa.field("image_digest", pa.string(), metadata={"description": "digest of its voxels, whatever the recipe"}),
        pa.field("patient_id", pa.string(), metadata={"description": "patient; NULL where none is known"}),
    ],
    metadata={"table": "learned_from", "schema_version": "1"},
)


def mark_training_cases(store: StoreLayout, cases: Sequence[CaseRef], sha256: str) -> int:
    """Record the training cases of weights and mark them in every cohort; repeating it changes nothing.

    Validation cases count as training cases: they selected the best checkpoint.

    Returns:
        Number of newly marked cases.
    """
    rows: list[dict[str, Any]] = []
    for cohort in sorted({case.cohort for case in cases}):
        recipe, images = read_cohort(store, cohort).recipe.name, newest_image_digests(store, cohort)
        rows += [
            {
                "weights_sha256": sha256,
                "cohort": cohort,
                "recipe": recipe,
                "case_id": case.case_id,
                "case_digest": case.case_digest,
                "image_digest": images.get(case.case_id),
                "patient_id": _patient(case.case_id, case.patient_id),
            }
            for case in cases
            if case.cohort == cohort
        ]
    write_rows(store.learned_from(), rows, LEARNED_FROM, name=sha256)
    return sum(mark_known_cases(store, cohort) for cohort in cohort_names(store))


def mark_known_cases(store: StoreLayout, cohort: str) -> int:
    """Mark the cases of a cohort that weights were trained on: the same content, or another case of the patient.

    Patient ids are unique within a dataset only, so patients match within a cohort or a recipe.

    Returns:
        Number of newly marked cases.
    """
    learned = _learned(store)
    if not learned.by_content and not learned.by_patient:
        return 0
    recipe, images = read_cohort(store, cohort).recipe.name, newest_image_digests(store, cohort)
    columns = ("case_id", "case_digest", "patient_id", "in_training", "ingested_at")
    known = read_table(store.cases(cohort), CASES, columns=columns).sort_by("ingested_at")
    missing: dict[str, list[str]] = {}
    for case_id, row in {row["case_id"]: row for row in known.to_pylist()}.items():  # the newest row of each case
        found = learned.weights_of(cohort, recipe, row, images.get(case_id))
        if new := sorted(found - set(row["in_training"])):
            missing[case_id] = new
    if missing:
        whole = rows_of_cases([read_table(store.cases(cohort), CASES).sort_by("ingested_at")], list(missing))
        newest = {row["case_id"]: row for row in whole}
        marks = [
            {**row, "in_training": [*row["in_training"], *missing[case_id]], "ingested_at": utc_now()}
            for case_id, row in newest.items()
        ]
        write_cases(store, cohort, marks)
    return len(missing)


@dataclass(frozen=True, slots=True)
class _Learned:
    """Weights by the digests of their training cases and images, and by their patients."""

    by_content: Mapping[str, set[str]]
    by_patient: Mapping[tuple[str, str], set[str]]

    def weights_of(self, cohort: str, recipe: str, row: Mapping[str, Any], image_digest: str | None) -> set[str]:
        """Weights trained on this case, or on another one of its patient."""
        found: set[str] = set()
        for digest in (row["case_digest"], image_digest):
            found |= self.by_content.get(digest or "", set())
        if patient := _patient(row["case_id"], row["patient_id"]):
            for whose in (f"cohort {cohort}", f"recipe {recipe}"):
                found |= self.by_patient.get((whose, patient), set())
        return found


def _learned(store: StoreLayout) -> _Learned:
    by_content: dict[str, set[str]] = defaultdict(set)
    by_patient: dict[tuple[str, str], set[str]] = defaultdict(set)
    for sha256, digests in shipped_training_digests().items():
        for digest in digests:
            by_content[digest].add(sha256)
    for row in read_table(store.learned_from(), LEARNED_FROM).to_pylist():
        for digest in filter(None, (row["case_digest"], row["image_digest"])):
            by_content[digest].add(row["weights_sha256"])
        if patient := row["patient_id"]:
            for whose in (f"cohort {row['cohort']}", f"recipe {row['recipe']}"):
                by_patient[whose, patient].add(row["weights_sha256"])
    return _Learned(by_content, by_patient)


def _patient(case_id: str, patient_id: str | None) -> str | None:
    """The patient, if known: recipes without patients use the case id, which matches no other case."""
    return None if patient_id == case_id else patient_id
