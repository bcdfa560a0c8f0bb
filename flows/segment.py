"""The flow that segments a source without any reference: register, segment, release."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.benchmark import segment_shard, shards_of
from flows.clusters.clusters import Workers, dask_workers
from flows.ingest import convert_cases
from flows.messages.console import say
from flows.settings.agent import require_run_allowed, with_site_model
from flows.settings.settings import named_cluster
from flows.stream import stream_cases
from storage.catalog.catalog import publish_catalog
from storage.exports.claims import claim_folder, release_lock, require_claimable
from storage.exports.ledger import unreleased, write_summary
from storage.exports.releases import ReleaseForm
from storage.exports.segment_plan import (
    SegmentRequest,
    plan_segment,
    reader_for_segmenting,
    require_out_apart,
    run_of_request,
)
from storage.ingest.plan import IngestPlan, finish_ingest, plan_ingest, unchanged_sources
from storage.runs.ledger import Run
from storage.runs.plan import WorkGroup, record_plan
from storage.store.layout import StoreLayout, open_store
from storage.store.locations import location
from storage.store.locks import holding
from storage.store.writers import ingesting, writing
from tasks.export import ExportBatch, PendingExport
from tasks.ledger import record_rejected
from tasks.plugin import SegmenterPlugin
from tasks.stream.stream import StreamCounts


@dataclass(frozen=True, slots=True)
class SegmentSummary:
    """How it ended: cohort, run, and how many cases ended how.

    `segmented` means released too, `empty` that nothing was found and the form has no file that says so.
    """

    cohort: str
    run_id: str
    counts: dict[str, int]

    @property
    def unfinished(self) -> int:
        """Cases that should have a released segmentation and have none."""
        return sum(count for status, count in self.counts.items() if status not in ("segmented", "empty"))


@flow(name="segment", flow_run_name="segment-{source}")
def segment_source(
    store: str,
    source: str,
    weights: str,
    out: str,
    texts: list[str] | None = None,
    prompts: str | None = None,
    form: str = "nifti",
    settings: list[str] | None = None,
    reader: str = "auto",
    limit: int = 0,
    retry: bool = False,
    anonymous: bool = False,
    cluster: str = "local",
    policy: str = "text",
) -> SegmentSummary:
    """Segment every case of a source and release what was drawn; what is done already is not done again.

    Args:
        store: Folder of the store.
        source: Source folder, or `phantom:KIND`.
        weights: `NAME` or `NAME@N`.
        out: Folder for the segmentations.
        texts: What to look for.
        prompts: Prompts file, instead of texts.
        form: `nifti`, `dicom-seg` or `zarr`.
        settings: Inference settings as `key=value`.
        reader: Recipe or layout by name, or `auto`.
        limit: At most so many cases; 0 means all.
        retry: Whether rejected, failed and crashed cases are tried again.
        anonymous: Leave patients' names out of DICOM.
        cluster: Cluster by name.
        policy: How texts are asked: `text`, or by the `agent` as requests.
    """
    require_out_apart(source, location(out))
    layout, target = open_store(store), location(out).resolve()
    prompts_file = Path(prompts) if prompts else None
    chosen = with_site_model(layout.root, [policy], settings or ())
    request = SegmentRequest(source, weights, tuple(texts or ()), prompts_file, chosen, limit, retry, policy)
    run, rows = run_of_request(layout, request)
    require_run_allowed(layout.root, run)
    require_claimable(layout, run, target, anonymous=anonymous)
    kind = reader_for_segmenting(source, reader)
    with ExitStack() as listed:
        listed.enter_context(ingesting(layout, request.cohort, say))
        ingest = plan_ingest(layout, source, request.cohort, kind, None, None, limit, with_references=False)
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
            group = plan_segment(layout, request, run, rows)
            record_plan(layout, group)
            record_rejected(layout, group)
            _segment(layout, group, workers, token)
            claim = claim_folder(layout, run, target, anonymous=anonymous)
            export_cases(layout, run, ingest, ReleaseForm(form), target, claim, workers, anonymous=anonymous)
            counts = write_summary(layout, run, form, target, claim)
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
    store: StoreLayout,
    run: Run,
    ingest: IngestPlan,
    form: ReleaseForm,
    out: Path,
    claim: str,
    workers: Workers,
    *,
    anonymous: bool,
) -> StreamCounts:
    """One bounded stream of batches over the workers."""
    pending = unreleased(store, run, form, claim)
    if not pending:
        return StreamCounts()
    sources = unchanged_sources(store, ingest) if form is ReleaseForm.DICOM_SEG else {}
    cases = [PendingExport(case, attempt, sources.get(case.case_id)) for case, attempt in pending]
    name = f"{run.weights.name}@{run.weights.version}"
    work = ExportBatch(
        store, run.run_id, run.structures, dict(run.texts), name, ingest.source_root, form, out, claim, anonymous
    )
    return stream_cases(f"release {form}", store, work, cases, workers)
