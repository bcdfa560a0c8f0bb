"""Flow `segment`: ingests a source without references, segments every case, writes the segmentations."""

from contextlib import ExitStack
from dataclasses import dataclass

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.benchmark import segment_shard, shards_of
from flows.clusters.clusters import Workers, dask_workers
from flows.ingest import convert_cases
from flows.messages.console import say
from flows.service.deployed import store_of
from flows.service.prepared_segment import prepared_segment
from flows.settings.defaults import CLUSTER
from flows.settings.settings import named_cluster
from flows.stream import stream_cases
from storage.catalog.catalog import publish_catalog
from storage.exports.claims import claim_folder, release_lock
from storage.exports.ledger import unreleased, write_summary
from storage.exports.registry import ExportCommand, format_named
from storage.exports.segment_plan import ReleaseRequest, SegmentRequest, pending
from storage.ingest.plan import IngestPlan, IngestRequest, finish_ingest, plan_ingest, unchanged_sources
from storage.runs.ledger import Run
from storage.runs.plan import WorkGroup, record_plan
from storage.store.layout import StoreLayout
from storage.store.locks import holding
from storage.store.writers import ingesting, writing
from tasks.export import ExportBatch, PendingExport
from tasks.ledger import record_rejected
from tasks.plugin import SegmenterPlugin
from tasks.stream.stream import StreamCounts


@dataclass(frozen=True, slots=True)
class SegmentSummary:
    """Cohort, run and number of cases by status.

    `segmented` cases have their file in the output folder. `empty`: nothing was found, and the format has no file for
    that.
    """

    cohort: str
    run_id: str
    counts: dict[str, int]

    @property
    def unfinished(self) -> int:
        """Number of cases that should have a released segmentation and have none."""
        return sum(count for status, count in self.counts.items() if status not in ("segmented", "empty"))


@flow(name="segment", flow_run_name="segment-{request.source}")
def segment_source(
    request: SegmentRequest, release: ReleaseRequest, store: str = "", cluster: str = CLUSTER
) -> SegmentSummary:
    """Segment every case of a source and write the segmentations; finished cases are skipped.

    Args:
        request: Source, weights, prompts and settings.
        release: Output folder and format.
        store: Folder of the store; empty for `$MEDSAM3_STORE`.
        cluster: Cluster by name.
    """
    layout = store_of(store)
    asked = prepared_segment(layout, request, release)
    run, target = asked.run, release.folder
    with ExitStack() as listed:
        listed.enter_context(ingesting(layout, request.cohort, say))
        wanted = IngestRequest(request.source, request.cohort, limit=request.limit)
        ingest = plan_ingest(layout, wanted, asked.source, with_references=False)
        with (
            writing(layout, [run.run_id]) as token,
            holding(release_lock(layout, target), f"{target} is being written"),
            dask_workers(named_cluster(cluster, layout.root), [run.weights]) as workers,
            workers.on_store(layout),
        ):
            if ingest.pending:
                convert_cases(ingest, layout, workers)
            finish_ingest(layout, ingest)
            listed.close()  # others may ingest while this one segments
            group = pending(layout, asked)
            record_plan(layout, group)
            record_rejected(layout, group)
            _segment(layout, group, workers, token)
            claim = claim_folder(layout, run, target, anonymous=release.anonymous)
            export_cases(layout, run, ingest, release, claim, workers)
            counts = write_summary(layout, run, release.form, target, claim)
    publish_catalog(layout)
    return SegmentSummary(request.cohort, run.run_id, counts)


def _segment(store: StoreLayout, group: WorkGroup, workers: Workers, token: str) -> None:
    if not group.pending:
        return
    workers.register(SegmenterPlugin(group.weights, workers.threads_per_worker, None))
    for shard in shards_of(group.pending):
        segment_shard(store, group, shard, workers, token)


@task(name="export-cases", task_run_name="export-cases", cache_policy=NO_CACHE)
def export_cases(
    store: StoreLayout, run: Run, ingest: IngestPlan, release: ReleaseRequest, claim: str, workers: Workers
) -> StreamCounts:
    """Write the segmentations in one bounded stream of batches over the workers."""
    form = format_named(release.form, ExportCommand.SEGMENT)
    left = unreleased(store, run, form.name, claim)
    if not left:
        return StreamCounts()
    sources = unchanged_sources(store, ingest) if form.needs_source else {}
    cases = [PendingExport(case, attempt, sources.get(case.case_id)) for case, attempt in left]
    name = f"{run.weights.name}@{run.weights.version}"
    work = ExportBatch(
        store,
        run.run_id,
        run.structures,
        dict(run.texts),
        name,
        ingest.source_root,
        form,
        release.folder,
        claim,
        release.anonymous,
    )
    return stream_cases(f"release {form}", store, work, cases, workers)
