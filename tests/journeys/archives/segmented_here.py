"""Segment a source in this process by the same units of work, without Prefect or Dask."""

import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from storage.exports.claims import claim_folder
from storage.exports.ledger import unreleased, write_summary
from storage.exports.registry import ExportCommand, format_named
from storage.exports.segment_plan import SegmentRequest, pending, run_of
from storage.ingest.plan import IngestRequest, finish_ingest, plan_ingest, unchanged_sources
from storage.runs.ledger import Run
from storage.runs.plan import record_plan
from storage.store.layout import StoreLayout
from storage.weights.registry import load_segmenter
from tasks.export import ExportBatch, PendingExport
from tasks.ingest import IngestBatch, PendingCase
from tasks.segment import SegmentBatch
from tasks.stream.breadcrumbs import BreadcrumbFolder
from tasks.stream.work import run_batch


class ProcessDiedError(Exception):
    """Ends a release in the middle."""


def segment_here(
    store: StoreLayout,
    request: SegmentRequest,
    out: Path,
    form: str = "nifti",
    *,
    anonymous: bool = False,
    meanwhile: Callable[[], object] = lambda: None,
    before_release: Callable[[], object] = lambda: None,
    dies_after: int | None = None,
) -> tuple[Run, dict[str, int], int]:
    """Segment and release; the run, how cases ended, and how many were segmented by this call.

    `meanwhile` is called between the two, `before_release` when it is known what is to be released. When `dies_after`
    files were released, `ProcessDiedError` ends it: no row of them is written, as if the process had been killed.
    """
    written = format_named(form, ExportCommand.SEGMENT)
    crumbs = BreadcrumbFolder(store.breadcrumbs() / "here")
    asked = run_of(store, request)
    run, wanted = asked.run, IngestRequest(request.source, request.cohort)
    ingest = plan_ingest(store, wanted, asked.source, with_references=False)
    read = IngestBatch(
        store, request.cohort, ingest.cohort.recipe, ingest.source_root, with_references=ingest.with_references
    )
    run_batch(
        read,
        _batch_id(),
        crumbs,
        [PendingCase(case, fingerprint, ingest.standing.get(case.case_id, "")) for case, fingerprint in ingest.pending],
    )
    finish_ingest(store, ingest)
    group = pending(store, asked)
    record_plan(store, group)
    if group.pending:
        segment = SegmentBatch(store, group.cohort.recipe, group.runs, partial(load_segmenter, run.weights, "cpu"))
        run_batch(segment, _batch_id(), crumbs, group.pending)
    meanwhile()
    claim = claim_folder(store, run, out, anonymous=anonymous)
    sources = unchanged_sources(store, ingest)
    weights = f"{run.weights.name}@{run.weights.version}"
    export = ExportBatch(
        store, run.run_id, run.structures, dict(run.texts), weights, ingest.source_root, written, out, claim,
        anonymous,
    )  # fmt: skip
    left = [
        PendingExport(case, batch_id, sources.get(case.case_id))
        for case, batch_id in unreleased(store, run, form, claim)
    ]
    before_release()
    if dies_after is not None:
        for case in left[:dies_after]:
            export.row(case)
        raise ProcessDiedError
    run_batch(export, _batch_id(), crumbs, left)
    return run, write_summary(store, run, form, out, claim), len(group.pending)


def _batch_id() -> str:
    return f"here-{uuid.uuid4().hex[:12]}"
