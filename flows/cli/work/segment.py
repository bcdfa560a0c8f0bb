"""`medsam3 segment`: what it says and returns around the flow."""

from pathlib import Path

from flows.clusters.forking import begin_forking
from flows.messages.console import say
from flows.settings.agent import require_run_allowed
from flows.settings.settings import named_cluster
from storage.exports.claims import require_claimable
from storage.exports.segment_plan import SegmentRequest, reader_for_segmenting, require_out_apart, run_of_request
from storage.sources.registry import find_reader
from storage.store.layout import open_store
from storage.store.locations import location


def run_segment(
    root: Path, request: SegmentRequest, out: Path, form: str, reader: str, cluster: str, *, anonymous: bool
) -> int:
    """Run the flow, print where the answers lie; exit code 0, or 1 if a case has no released segmentation."""
    require_out_apart(request.source, out)
    store = open_store(root)
    find_reader(request.source, reader_for_segmenting(request.source, reader))  # refused before anything starts
    run, _ = run_of_request(store, request)
    require_run_allowed(root, run)
    require_claimable(store, run, location(out).resolve(), anonymous=anonymous)
    settings = named_cluster(cluster, root)
    begin_forking(settings, [run.weights])  # it imports beside the imports that follow

    from flows.clusters.clusters import workers_starting
    from flows.segment import segment_source
    from flows.service.session import prefect_session

    with workers_starting(settings, [run.weights]), prefect_session():
        summary = segment_source(
            str(root),
            request.source,
            request.weights,
            str(out),
            list(request.texts),
            str(request.prompts) if request.prompts else None,
            form,
            list(request.settings),
            reader,
            request.limit,
            request.retry,
            anonymous,
            cluster,
            request.policy,
        )
    counted = ", ".join(f"{count} {status}" for status, count in sorted(summary.counts.items())) or "nothing"
    say(f"cohort {summary.cohort}, run {summary.run_id}: {counted}")
    if summary.unfinished:
        say(f"reasons stand in {out / 'manifest.csv'}")
    print(out)  # noqa: T201 - the answer
    return 1 if summary.unfinished else 0
