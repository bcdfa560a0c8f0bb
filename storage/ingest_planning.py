"""What an ingest has to do: list the source, leave out what is in the store unchanged."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medsam3_core.cases import CaseSource, CaseStatus
from medsam3_core.digests import digest_json
from medsam3_core.errors import UsageError
from storage.cohorts import Cohort, latest_cases, write_cohort
from storage.ingest_journal import close_journal, note_listed, vanished
from storage.readers.registry import find_reader
from storage.store_layout import StoreLayout, check_name
from storage.training_marks import mark_known_cases


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """Cases to read.

    Attributes:
        cohort: Cohort as it will be recorded.
        source_root: Absolute source folder, or the pseudo source of phantoms.
        pending: Cases to read with the fingerprint of their files.
        unchanged: Cases in the store whose files have not changed since.
    """

    cohort: Cohort
    source_root: str
    pending: tuple[tuple[CaseSource, str], ...]
    unchanged: int


def plan_ingest(
    store: StoreLayout,
    source: str,
    cohort: str,
    reader: str,
    recipe_file: Path | None,
    split: str | None,
    limit: int,
    *,
    with_references: bool = True,
) -> IngestPlan:
    """List a source and compare it with the store; writes `cohort.json` and the journal of what is to be read.

    Without references images are read alone: a reference that is wrong or missing rejects no case.

    Raises:
        UsageError: If source, reader, recipe or names are wrong; names value and remedy.
    """
    check_name("cohort", cohort)
    if split is not None:
        check_name("split", split)
    layout, recipe = find_reader(source, reader, recipe_file)
    root = source if source.startswith("phantom:") else str(Path(source).resolve())
    listed = layout.list_cases(Path(root), recipe)
    if not listed:
        msg = f"{source} holds no case of the layout {recipe.layout!r}; check the folder or choose another --reader"
        raise UsageError(msg)
    listed = [replace(case, split=split) for case in listed] if split else listed
    listed = listed[:limit] if limit else listed
    if not with_references:
        listed = [replace(case, references={}) for case in listed if case.image]
    named = Cohort(cohort, recipe, (root,))
    write_cohort(store, named)
    rows = latest_cases(store, cohort).to_dict("records")
    known = {row["case_id"]: (row["status"], row["source_root"], row["source_fingerprint"]) for row in rows}
    trained = {row["case_id"]: tuple(row["in_training"]) for row in rows if len(row["in_training"])}
    pending, unchanged = [], 0
    gone = vanished(store, cohort, root, {case.case_id for case in listed} | known.keys())
    for case in (*_without_foreign(listed, known, root), *gone):
        fingerprint = _fingerprint(root, case, recipe.case_part_digest)
        if known.get(case.case_id) == (CaseStatus.ACCEPTED, root, fingerprint):
            unchanged += 1
        else:
            seen_by = tuple(dict.fromkeys((*case.seen_by, *trained.get(case.case_id, ()))))
            pending.append((replace(case, seen_by=seen_by), fingerprint))
    note_listed(store, cohort, root, [case for case, _ in pending])
    return IngestPlan(named, root, tuple(pending), unchanged)


def finish_ingest(store: StoreLayout, plan: IngestPlan) -> None:
    """Record the cohort with the digest of its case list, now that every case has its row; mark what weights saw."""
    write_cohort(store, plan.cohort)
    mark_known_cases(store, plan.cohort.name, {case.case_id for case, _ in plan.pending})
    close_journal(store, plan.cohort.name)


def _without_foreign(
    listed: Sequence[CaseSource], known: dict[str, tuple[str, str, str]], root: str
) -> list[CaseSource]:
    """A case_id that another source folder holds already is a doubled id: kept apart and rejected."""
    checked = []
    for case in listed:
        other = known.get(case.case_id)
        if other is not None and other[1] != root and not root.startswith("phantom:"):
            name = f"{case.case_id}-{digest_json([root, case.case_id])[:6]}"
            reason = f"case id {case.case_id!r} exists in this cohort from {other[1]}; use another --cohort or rename"
            checked.append(replace(case, case_id=name, reject_reason=case.reject_reason or reason))
        else:
            checked.append(case)
    return checked


def _fingerprint(root: str, case: CaseSource, recipe_digest: str) -> str:
    """Digest of names, sizes and times of the source files and of the recipe: changes when the case must be read."""
    files = (*case.image, *(name for names in case.references.values() for name in names))
    facts = []
    for name in files:
        path = os.path.join(root, name)
        try:
            status = os.stat(path)
            facts.append([name, status.st_size, status.st_mtime_ns])
        except OSError:
            facts.append([name, -1, -1])
    return digest_json([facts, dict(case.extra), case.split, case.patient_id, recipe_digest])
