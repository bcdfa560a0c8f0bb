"""Ingest and benchmark in this process: the same units of work, without Prefect, Dask or model weights."""

import uuid
from functools import partial

from storage.ingest.plan import IngestPlan, IngestRequest, finish_ingest, plan_ingest
from storage.runs.plan import BenchmarkPlan, pending, record_plan
from storage.runs.requests import BenchmarkRequest, runs_of
from storage.store.layout import StoreLayout
from storage.weights.registry import load_segmenter
from tasks.agent.endpoint import EndpointSettings
from tasks.ingest import IngestBatch, PendingCase
from tasks.segment import SegmentBatch
from tasks.stream.breadcrumbs import BreadcrumbFolder
from tasks.stream.work import run_batch


def ingest_here(store: StoreLayout, source: str, cohort: str, *, reader: str = "auto", limit: int = 0) -> IngestPlan:
    """Ingest all pending cases of a source; the plan."""
    plan = plan_ingest(store, IngestRequest(source, cohort, reader=reader, limit=limit))
    work = IngestBatch(store, cohort, plan.cohort.recipe, plan.source_root)
    cases = [PendingCase(case, fingerprint, plan.standing.get(case.case_id, "")) for case, fingerprint in plan.pending]
    if cases:
        run_batch(work, _batch_id(), BreadcrumbFolder(store.breadcrumbs() / "ingest"), cases)
    finish_ingest(store, plan)
    return plan


def plan_here(store: StoreLayout, *requests: BenchmarkRequest) -> BenchmarkPlan:
    """What requests that leave nothing out still need."""
    return pending(store, runs_of(store, requests))


def benchmark_here(
    store: StoreLayout, request: BenchmarkRequest, endpoint: EndpointSettings | None = None
) -> BenchmarkPlan:
    """Segment and score all that is pending; the plan."""
    plan = plan_here(store, request)
    for group in plan.groups:
        record_plan(store, group)
        segmenter = partial(load_segmenter, group.weights, "cpu")
        work = SegmentBatch(store, group.cohort.recipe, group.runs, segmenter, endpoint=endpoint or EndpointSettings())
        if group.pending:
            run_batch(work, _batch_id(), BreadcrumbFolder(store.breadcrumbs() / "benchmark"), group.pending)
    return plan


def _batch_id() -> str:
    return f"here-{uuid.uuid4().hex[:12]}"
