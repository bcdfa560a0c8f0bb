"""Segment a source in this process: the same units of work, without Prefect or Dask."""

import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from storage.ingest_planning import finish_ingest, plan_ingest, unchanged_sources
from storage.release_ledger import unreleased, write_summary
from storage.released_exports import ReleaseForm
from storage.run_ledger import Run
from storage.run_planning import record_plan
from storage.segment_planning import SegmentRequest, plan_segment, reader_for_segmenting, run_of_request
from storage.store_layout import StoreLayout
from storage.weights_registry import load_segmenter
from tasks.breadcrumbs import BreadcrumbFolder
from tasks.export_cases import ExportBatch, PendingExport
from tasks.ingest_cases import IngestBatch, PendingCase
from tasks.segment_cases import SegmentBatch


def segment_here(
    store: StoreLayout,
    request: SegmentRequest,
    out: Path,
    form: str = "nifti",
    *,
    anonymous: bool = False,
    meanwhile: Callable[[], object] = lambda: None,
) -> tuple[Run, dict[str, int], int]:
    """Segment and release; the run, how cases ended, and how many were segmented by this call.

    `meanwhile` is called between the two.
    """
    crumbs = BreadcrumbFolder(store.breadcrumbs() / "here")
    run, rows = run_of_request(store, request)
    kind = reader_for_segmenting(request.source)
    ingest = plan_ingest(store, request.source, request.cohort, kind, None, None, 0, with_references=False)
    read = IngestBatch(
        store, request.cohort, ingest.cohort.recipe, ingest.source_root, with_references=ingest.with_references
    )
    read(
        _attempt(),
        crumbs,
        [PendingCase(case, fingerprint, ingest.standing.get(case.case_id, "")) for case, fingerprint in ingest.pending],
    )
    finish_ingest(store, ingest)
    group = plan_segment(store, request, run, rows)
    record_plan(store, group)
    if group.pending:
        segment = SegmentBatch(store, group.cohort.recipe, group.runs, partial(load_segmenter, run.weights, "cpu"))
        segment(_attempt(), crumbs, group.pending)
    meanwhile()
    sources = unchanged_sources(store, ingest)
    export = ExportBatch(
        store, run.run_id, run.structures, dict(run.texts), f"{run.weights.name}@1", ingest.source_root,
        ReleaseForm(form), out, anonymous,
    )  # fmt: skip
    pending = [
        PendingExport(case, attempt, sources.get(case.case_id)) for case, attempt in unreleased(store, run, form, out)
    ]
    export(_attempt(), crumbs, pending)
    return run, write_summary(store, run, form, out), len(group.pending)


def _attempt() -> str:
    return f"here-{uuid.uuid4().hex[:12]}"
