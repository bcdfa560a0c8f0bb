"""Flow `ingest`: converts a source dataset into a cohort of the store."""

from dataclasses import dataclass

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.clusters.clusters import Workers, dask_workers
from flows.messages.console import say
from flows.service.deployed import store_of
from flows.settings.defaults import CLUSTER
from flows.settings.settings import named_cluster
from flows.stream import stream_cases
from storage.catalog.catalog import publish_catalog
from storage.ingest.plan import IngestPlan, IngestRequest, finish_ingest, plan_ingest
from storage.store.layout import StoreLayout
from storage.store.writers import ingesting
from tasks.ingest import IngestBatch, PendingCase
from tasks.stream.stream import StreamCounts


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """Outcome of an ingest.

    Attributes:
        cohort: Name of the cohort.
        accepted: Cases accepted by this ingest.
        rejected: Cases rejected by this ingest.
        unchanged: Cases already in the store with the same source files.
    """

    cohort: str
    accepted: int
    rejected: int
    unchanged: int


@flow(name="ingest", flow_run_name="ingest-{request.cohort}")
def ingest_cohort(request: IngestRequest, store: str = "", cluster: str = CLUSTER) -> IngestSummary:
    """Convert a source dataset to OME-Zarr and record every case as accepted or rejected.

    Args:
        request: Source, cohort and limits.
        store: Folder of the store; empty for `$MEDSAM3_STORE`.
        cluster: Cluster by name.
    """
    layout = store_of(store)
    with ingesting(layout, request.cohort, say):
        plan = plan_ingest(layout, request)
        counts = StreamCounts()
        if plan.pending:
            with dask_workers(named_cluster(cluster, layout.root), []) as workers, workers.on_store(layout):
                counts = convert_cases(plan, layout, workers)
        finish_ingest(layout, plan)
    publish_catalog(layout)
    return IngestSummary(request.cohort, counts.statuses["accepted"], counts.statuses["rejected"], plan.unchanged)


@task(name="convert-cases", task_run_name="convert-cases", cache_policy=NO_CACHE)
def convert_cases(plan: IngestPlan, store: StoreLayout, workers: Workers) -> StreamCounts:
    """Convert the pending cases in one bounded stream of batches over the workers."""
    work = IngestBatch(store, plan.cohort.name, plan.cohort.recipe, plan.source_root, plan.with_references)
    cases = [
        PendingCase(source, fingerprint, plan.standing.get(source.case_id, "")) for source, fingerprint in plan.pending
    ]
    return stream_cases(f"ingest {plan.cohort.name}", store, work, cases, workers)
