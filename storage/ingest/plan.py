"""Plan of an ingest: list the source, leave out cases that are in the store unchanged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, NonNegativeInt

from medsam3_core.cases.cases import CaseSource, CaseStatus
from medsam3_core.digests import digest_json
from medsam3_core.errors import UsageError
from storage.cohorts.cohorts import Cohort, latest_cases, latest_rejections, write_cohort
from storage.ingest.journal import close_journal, is_open, note_listed, vanished
from storage.sources.listing.files import listed_once, stamps_of
from storage.sources.registry import AUTO, Source, find_source
from storage.store.layout import StoreLayout, check_name
from storage.store.locations import is_remote, location
from storage.store.request_schema import STRICT
from storage.training.marks import mark_known_cases


@dataclass(frozen=True, slots=True)
class IngestRequest:
    """Source and cohort of an ingest.

    Attributes:
        source: Source folder, or `phantom:KIND`.
        cohort: Name of the cohort in the store; `--check` needs none.
        reader: Recipe or layout by name, or `auto`.
        recipe: Recipe file.
        split: Split of all cases, overrides the recipe.
        limit: Maximum number of cases; 0 means all.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    source: str
    cohort: str
    reader: str = AUTO
    recipe: Path | None = None
    split: str | None = None
    limit: NonNegativeInt = 0


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """Cases to read.

    Attributes:
        source_root: Absolute source folder, or the pseudo source of phantoms.
        pending: Cases to read with the fingerprint of their files.
        unchanged: Cases in the store, with their volume, whose files have not changed.
        with_references: Read references, and include structures in the digests of cases.
        standing: Pending cases with a current rejection: case id to the digest of the rejecting row.
        listed: All cases, if they are read without references and so may be named in a release.
    """

    cohort: Cohort
    source_root: str
    pending: tuple[tuple[CaseSource, str], ...]
    unchanged: int
    with_references: bool = True
    standing: Mapping[str, str] = field(default_factory=dict)
    listed: tuple[CaseSource, ...] = ()


def plan_ingest(
    store: StoreLayout, request: IngestRequest, source: Source | None = None, *, with_references: bool = True
) -> IngestPlan:
    """List a source and compare it with the store; writes `cohort.json` and the journal of pending cases.

    `source` is given if its reader is known already. Without references, images alone are read: a wrong, missing or new
    reference changes no case.

    Raises:
        UsageError: If source, reader, recipe or names are wrong; names value and remedy.
    """
    check_name("cohort", request.cohort)
    if request.split is not None:
        check_name("split", request.split)
    found = source or find_source(request.source, request.reader, request.recipe)
    with listed_once(found.listings):
        plan = _plan(store, request, found, with_references=with_references)
    found.listings.clear()  # large, and outdated by the next listing
    return plan


def _plan(store: StoreLayout, request: IngestRequest, source: Source, *, with_references: bool) -> IngestPlan:
    cohort, split = request.cohort, request.split
    root, recipe, listed = source.root, source.recipe, source.list_cases()
    if not listed:
        msg = (
            f"{request.source} holds no case of the layout {recipe.layout!r}; check the folder or choose another "
            "--reader"
        )
        raise UsageError(msg)
    listed = [replace(case, split=split) for case in listed] if split else listed
    if not with_references:
        listed = [replace(case, references={}) for case in listed if case.image]
    named = Cohort(cohort, recipe, (root,))
    write_cohort(store, named)
    rows = latest_cases(store, cohort, ["status", "source_root", "source_fingerprint", "in_training", "ndim"])
    flat = set(rows["case_id"][rows["ndim"] == 2])
    facts = zip(rows["status"], rows["source_root"], rows["source_fingerprint"], strict=True)
    known = dict(zip(rows["case_id"], facts, strict=True))
    trained = {
        case: tuple(names) for case, names in zip(rows["case_id"], rows["in_training"], strict=True) if len(names)
    }
    pending, unchanged, standing = [], 0, {}
    rejections = latest_rejections(store, cohort)
    part = recipe.for_digests(with_references=with_references).case_part_digest
    listed = _without_foreign(listed, known, root)
    gone = vanished(store, cohort, root, {case.case_id for case in listed} | known.keys())
    for case in [*listed, *gone][: request.limit or None]:
        fingerprint = _fingerprint(root, case, part)
        is_known = known.get(case.case_id) == (CaseStatus.ACCEPTED, root, fingerprint)
        volume = store.volume(cohort, case.case_id, zipped=case.case_id in flat)
        if is_known and (is_remote(store.root) or volume.exists()):  # asking an object store takes long
            unchanged += 1
        else:
            seen_by = tuple(dict.fromkeys((*case.seen_by, *trained.get(case.case_id, ()))))
            pending.append((replace(case, seen_by=seen_by), fingerprint))
            row = rejections.get(case.case_id)
            if row is not None and known.get(case.case_id) == (CaseStatus.REJECTED, root, fingerprint):
                facts_now = (recipe.modality, sorted(case.references) or ["reference"], list(seen_by))
                if (row["modality"], row["raters"], row["in_training"]) == facts_now:
                    standing[case.case_id] = row["case_digest"]
    note_listed(store, cohort, root, [case for case, _ in pending])
    named_later = () if with_references else tuple(listed)
    return IngestPlan(named, root, tuple(pending), unchanged, with_references, standing, named_later)


def finish_ingest(store: StoreLayout, plan: IngestPlan) -> None:
    """Record the cohort with the digest of its case list, mark training cases, and close the journal.

    All cases of the cohort are marked: an interrupted ingest may have left unmarked ones.
    """
    write_cohort(store, plan.cohort)
    if plan.pending or is_open(store, plan.cohort.name):
        mark_known_cases(store, plan.cohort.name)
    close_journal(store, plan.cohort.name, plan.source_root)


def unchanged_sources(store: StoreLayout, plan: IngestPlan) -> dict[str, CaseSource]:
    """Case id to its files, for cases whose files have not changed since they were read."""
    recipe, root = plan.cohort.recipe, plan.source_root
    part = recipe.for_digests(with_references=plan.with_references).case_part_digest
    read = latest_cases(store, plan.cohort.name, ["source_fingerprint"])
    known = dict(zip(read["case_id"], read["source_fingerprint"], strict=True))
    return {case.case_id: case for case in plan.listed if known.get(case.case_id) == _fingerprint(root, case, part)}


def _without_foreign(
    listed: Sequence[CaseSource], known: dict[str, tuple[str, str, str]], root: str
) -> list[CaseSource]:
    """Rename and reject cases whose case_id belongs to another source folder of the cohort."""
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
    """Digest of names, sizes and times of the source files and of the recipe; changes when the case must be read."""
    files = (*case.image, *(name for names in case.references.values() for name in names))
    facts = [list(stamp) for stamp in stamps_of(location(root), files)]
    return digest_json([facts, dict(case.extra), case.split, case.patient_id, recipe_digest])
