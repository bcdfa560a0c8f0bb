"""`medsam3 segment`: what it says and returns around the flow."""

from pathlib import Path

from flows.clusters.forking import begin_forking
from flows.messages.console import say
from flows.service.prepared import handing
from flows.service.prepared_segment import prepared_segment
from flows.settings.settings import named_cluster
from storage.exports.segment_plan import ReleaseRequest, SegmentRequest
from storage.store.layout import open_store
from storage.store.locations import location


def run_segment(root: Path, request: SegmentRequest, release: ReleaseRequest, cluster: str) -> int:
    """Run the flow, print where the answers lie; exit code 0, or 1 if a case has no released segmentation."""
    asked = prepared_segment(open_store(root), request, release)  # refused before anything starts
    settings = named_cluster(cluster, root)
    begin_forking(settings, [asked.run.weights])  # it imports beside the imports that follow

    from flows.clusters.clusters import workers_starting
    from flows.segment import segment_source
    from flows.service.session import prefect_session

    with handing((request, release), asked), workers_starting(settings, [asked.run.weights]), prefect_session():
        summary = segment_source(request, release, str(root), cluster)
    counted = ", ".join(f"{count} {status}" for status, count in sorted(summary.counts.items())) or "nothing"
    say(f"cohort {summary.cohort}, run {summary.run_id}: {counted}")
    if summary.unfinished:
        say(f"reasons stand in {location(release.out) / 'manifest.csv'}")
    print(release.out)  # noqa: T201 - the answer
    return 1 if summary.unfinished else 0
