"""The leak guard: which weights learned from which cases, written where every score looks, the table of the cases.

When weights have been trained, the cases of their manifest are written down with the digests of their images
(`weights/learned-from/<sha256>.parquet`), and every case of the store that is one of them is marked. A cohort that is
ingested later is compared with these lists, and with those of the weights that come with the product, at the end of
its ingest. Public weights are noted by recipes, case by case, when a case is read. Scores of weights on cases that are
marked with them are `in_training`: counted on the leaderboard and left out of its means.
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
    """Write down what weights learned from and mark it in every cohort; doing it twice changes nothing.

    A validation case counts as learned from: the best checkpoint was chosen by it.

    Returns:
        Number of cases that were not marked before.
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
    """Mark the cases of a cohort that weights have learned from: the same content, or another case of a patient.

    Patients are told apart by number within a dataset alone, so they count within a cohort and a recipe.

    Returns:
        Number of cases that got a mark.
    """
    learned = _learned(store)
    if not learned.by_content and not learned.by_patient:
        return 0
    recipe, images = read_cohort(store, cohort).recipe.name, newest_image_digests(store, cohort)
    columns = ("case_id", "case_digest", "patient_id", "in_training", "ingested_at")
    known = read_table(store.cases(cohort), CASES, columns=columns).sort_by("ingested_at")
    missing: dict[str, list[str]] = {}
    for row in {row["case_id"]: row for row in known.to_pylist()}.values():  # the newest row of each case
        case_id = row["case_id"]
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
    """Weights by the digests of cases and images, and by the patients, that they learned from."""

    by_content: Mapping[str, set[str]]
    by_patient: Mapping[tuple[str, str], set[str]]

    def weights_of(self, cohort: str, recipe: str, row: Mapping[str, Any], image_digest: str | None) -> set[str]:
        """Weights that learned from this case, or from another one of its patient."""
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
    """The patient where the recipe knows one; a case that stands for itself says nothing of others."""
    return None if patient_id == case_id else patient_id
