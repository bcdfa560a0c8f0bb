"""`medsam3 segment`: run the flow and report its result."""

from pathlib import Path

from flows.clusters.forking import begin_forking
from flows.messages.console import say
from flows.messages.formatting import format_counts
from flows.service.prepared import handing
from flows.service.prepared_segment import prepared_segment
from flows.settings.agent import with_site_model
from flows.settings.settings import named_cluster
from storage.exports.segment_plan import ReleaseRequest, SegmentRequest
from storage.store.layout import open_store
from storage.store.locations import location


def run_segment(root: Path, request: SegmentRequest, release: ReleaseRequest, cluster: str) -> int:
    """Run the flow and print the output folder; exit code 0, or 1 if a case has no released segmentation."""
    with_site_model(root, [request.policy], request.settings)  # fail before the store is created
    store = open_store(root)
    asked = prepared_segment(store, request, release)  # fail before anything starts
    settings = named_cluster(cluster, root)
    begin_forking(settings, [asked.run.weights])  # it imports in parallel with the imports below

    from flows.clusters.clusters import workers_starting
    from flows.segment import segment_source
    from flows.service.session import prefect_session

    prepared = handing((store.root, request, release), asked)
    with prepared, workers_starting(settings, [asked.run.weights]), prefect_session():
        summary = segment_source(request, release, str(root), cluster)
    say(f"cohort {summary.cohort}, run {summary.run_id}: {format_counts(summary.counts) or 'nothing'}")
    if summary.unfinished:
        say(f"reasons: {location(release.out) / 'manifest.csv'}")
    print(release.out)  # noqa: T201 - the answer
    return 1 if summary.unfinished else 0
