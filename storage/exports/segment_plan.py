"""Plan of `medsam3 segment`: a cohort made of a source, texts or a prompts file, and no reference."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, NonNegativeInt

from medsam3_core.agent.requests import clean_request
from medsam3_core.cases.cases import CaseStatus
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.structures import Structure
from medsam3_core.digests import short_digest
from medsam3_core.errors import UnsupportedPromptError, UsageError
from medsam3_core.prompts.files import validate_rows
from medsam3_core.prompts.policies import PromptKind, PromptPolicy
from medsam3_core.prompts.rows import PromptRow
from medsam3_core.settings.inference import InferenceSettings
from storage.catalog.queries.runs import current_attempts
from storage.cohorts.cohorts import CaseRef, latest_case_refs, latest_cases, read_cohort
from storage.exports.ledger import damaged_predictions
from storage.prompts.files import read_prompts_file
from storage.prompts.tables import index_prompts, write_prompts
from storage.runs.ledger import Run
from storage.runs.plan import PlannedCase, WorkGroup
from storage.runs.refusals import refusal
from storage.sources.listing.labels import structure_slug
from storage.sources.registry import AUTO, Source, find_source
from storage.store.layout import StoreLayout
from storage.store.locations import absolute, location
from storage.store.request_schema import STRICT
from storage.weights.registry import find_weights


@dataclass(frozen=True, slots=True)
class SegmentRequest:
    """Source, weights and prompts of `medsam3 segment`.

    Attributes:
        source: Folder, or pseudo source of phantoms.
        weights: `NAME` or `NAME@N`.
        texts: Text prompts, one structure each.
        prompts: A prompts file, instead of texts.
        settings: Inference settings as `key=value`.
        limit: Maximum number of cases; 0 means all.
        retry: Try rejected, failed and crashed cases again, and those with a damaged prediction.
        policy: Use of the texts: `text` as prompts, or `agent` as requests to the agent.
        reader: Recipe or layout by name, or `auto`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    source: str
    weights: str
    texts: tuple[str, ...] = ()
    prompts: Path | None = None
    settings: tuple[str, ...] = ()
    limit: NonNegativeInt = 0
    retry: bool = False
    policy: str = str(PromptKind.TEXT)
    reader: str = AUTO

    def __post_init__(self) -> None:
        if PromptPolicy.parse(self.policy).kind not in (PromptKind.TEXT, PromptKind.AGENT):
            msg = f"prompt policy {self.policy!r} needs a reference; segment takes text and agent"
            raise UsageError(msg)
        if self.prompts is not None and self.policy != PromptKind.TEXT:
            msg = f"a prompts file cannot be combined with a prompt policy; leave out --prompt {self.policy}"
            raise UsageError(msg)
        if bool(self.texts) == (self.prompts is not None):
            msg = "give either --text once for each structure, or --prompts FILE, not both"
            raise UsageError(msg)
        for text in self.texts if self.policy != PromptKind.TEXT else ():
            clean_request(text)

    @property
    def cohort(self) -> str:
        """Name of the cohort: one per source, whatever the prompts."""
        root = self.source if self.source.startswith("phantom:") else absolute(self.source)
        return f"segment-{hashlib.sha256(root.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """Output folder and format of segmentations.

    Attributes:
        out: Folder for the segmentations.
        form: Format by name, as in `medsam3 segment --format`.
        anonymous: Leave patients' names out of DICOM.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    out: str
    form: str = "nifti"
    anonymous: bool = False

    @property
    def folder(self) -> Path:
        """The folder as a resolved path."""
        return location(self.out).resolve()


@dataclass(frozen=True, slots=True)
class SegmentRun:
    """A request resolved before any case is read: run, rows of its prompts file, and source with its reader."""

    request: SegmentRequest
    run: Run
    rows: tuple[PromptRow, ...]
    source: Source


def require_out_apart(source: str, out: Path) -> None:
    """Refuse an output folder inside the source: the next run would list the segmentations as images and references.

    Raises:
        UsageError: If `out` is the source or lies in it; names both.
    """
    if source.startswith("phantom:"):
        return
    inside, root = absolute(out), absolute(source)
    if inside == root or inside.startswith(f"{root.rstrip('/')}/"):
        msg = f"--out {out} lies in the source {source}, and the next run would list it; give a folder outside"
        raise UsageError(msg)


def structures_of_texts(texts: Sequence[str]) -> tuple[Structure, ...]:
    """One structure per text, named after it.

    Raises:
        UsageError: If two texts give the same name.
    """
    structures = tuple(Structure(structure_slug(text), text) for text in dict.fromkeys(texts))
    names = [item.name for item in structures]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        msg = f"several --text give the structure name {doubled[0]!r}; use texts that differ in letters or digits"
        raise UsageError(msg)
    return structures


def run_of(store: StoreLayout, request: SegmentRequest) -> SegmentRun:
    """Resolve a request; `pending` then finds the cases to segment.

    Raises:
        UsageError: If a name, text, file or setting is invalid.
        UnsupportedPromptError: If these weights do not accept the prompts.
    """
    settings = InferenceSettings.parse(request.settings)
    weights = find_weights(store, request.weights)
    rows: list[PromptRow] = []
    if request.prompts is not None:
        rows = read_prompts_file(request.prompts)
        digest = short_digest([list(astuple(row)) for row in rows])
        policy = PromptPolicy(PromptKind.FILE, digest=digest, kinds="+".join(sorted({str(row.kind) for row in rows})))
        structures = tuple(Structure(name, name) for name in dict.fromkeys(row.structure for row in rows))
    else:
        policy = PromptPolicy.parse(request.policy)
        structures = structures_of_texts(request.texts)
    if (sentence := refusal(weights, policy, settings)) is not None:
        raise UnsupportedPromptError(sentence)
    texts = tuple((item.name, item.text) for item in structures)
    prompt_id = policy.prompt_id(dict(texts))
    run = Run(weights, request.cohort, policy, prompt_id, settings, tuple(name for name, _ in texts), texts)
    return SegmentRun(request, run, tuple(rows), find_source(request.source, request.reader, every_image=True))


def pending(store: StoreLayout, asked: SegmentRun) -> WorkGroup:
    """Cases of an ingested cohort that are still to segment; stores the prompts of a prompts file.

    Raises:
        UsageError: If the prompts file names a case that does not exist or a position outside its volume.
    """
    request, run = asked.request, asked.run
    known = read_cohort(store, request.cohort)
    structures = tuple(Structure(name, text) for name, text in run.texts)
    cohort = replace(known, recipe=replace(known.recipe, structures=structures))
    cases = latest_case_refs(store, request.cohort)
    cases = cases[: request.limit] if request.limit else cases
    if request.prompts is not None:
        cases = _with_prompts(store, run, cases, asked.rows, latest_cases(store, request.cohort).to_dict("records"))
    done = _done(store, run, retry=request.retry)
    index = index_prompts(store, run.cohort, run.prompt_id, {case.case_id for case in cases} - done)
    planned = [
        PlannedCase(
            case,
            (run.run_id,),
            prompt_files={run.prompt_id: index[case.case_id, case.case_digest]}
            if (case.case_id, case.case_digest) in index
            else {},
        )
        for case in cases
        if case.case_id not in done
    ]
    usable = tuple(item for item in planned if item.case.status is CaseStatus.ACCEPTED)
    rejected = tuple(item for item in planned if item.case.status is not CaseStatus.ACCEPTED)
    return WorkGroup(cohort, run.weights, {run.run_id: run}, usable, rejected, len(cases) - len(planned))


def _done(store: StoreLayout, run: Run, *, retry: bool) -> set[str]:
    """Cases with a current outcome; with `retry` only segmented ones whose prediction is not known to be damaged."""
    if not store.run_json(run.run_id).exists():
        return set()
    attempts = current_attempts(store, run.run_id)
    if not retry:
        return {item.case_id for item in attempts}
    lost = damaged_predictions(store, run.run_id)
    return {
        item.case_id
        for item in attempts
        if item.status == CaseStatus.SEGMENTED and (item.case_id, item.attempt) not in lost
    }


def _with_prompts(
    store: StoreLayout,
    run: Run,
    cases: Sequence[CaseRef],
    rows: Sequence[PromptRow],
    facts: Sequence[Mapping[Any, Any]],
) -> list[CaseRef]:
    """Check the rows against their volumes and store them; cases without a row are rejected for this run."""
    by_case: dict[str, list[tuple[int, PromptRow]]] = {}
    for number, row in enumerate(rows, start=1):
        by_case.setdefault(row.case_id, []).append((number, row))
    known = {case.case_id: case for case in cases}
    if unknown := [name for name in by_case if name not in known]:
        listed = ", ".join(list(known)[:20])
        msg = f"row {by_case[unknown[0]][0][0]} of the prompts: no case {unknown[0]!r}; there are: {listed}"
        raise UsageError(msg)
    for fact in facts:
        if fact["case_id"] in by_case and fact["status"] == CaseStatus.ACCEPTED:
            shape = (int(fact["size_z"]), int(fact["size_y"]), int(fact["size_x"]))
            for number, row in by_case[fact["case_id"]]:
                validate_rows([row], VolumeGeometry.pixel_grid(shape), first_number=number)
    prompts = {known[name]: [row for _, row in items] for name, items in by_case.items()}
    write_prompts(store, run.prompt_id, run.policy, prompts, f"file-{run.policy.digest}")
    reason = "the prompts file has no row for this case"
    return [
        case if case.case_id in by_case or case.status is not CaseStatus.ACCEPTED
        else replace(case, status=CaseStatus.REJECTED, reason=reason)
        for case in cases
    ]  # fmt: skip
