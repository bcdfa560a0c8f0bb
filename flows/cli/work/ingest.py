"""`medsam3 ingest`: run the flow and report its result."""

from pathlib import Path

from flows.clusters.forking import begin_forking
from flows.messages.console import say
from flows.settings.options import FAILED_CASES
from flows.settings.settings import named_cluster
from storage.ingest.plan import IngestRequest
from storage.store.layout import open_store


def run_ingest(root: Path, request: IngestRequest, cluster: str) -> int:
    """Run the flow and print the number of cases by status; exit code 0, or 1 if a case was rejected."""
    open_store(root)  # fail before anything starts
    settings = named_cluster(cluster, root)
    begin_forking(settings, [])  # it imports in parallel with the imports below

    from flows.clusters.clusters import workers_starting
    from flows.ingest import ingest_cohort
    from flows.service.session import prefect_session

    with workers_starting(settings, []), prefect_session():
        summary = ingest_cohort(request, str(root), cluster)
    say(
        f"cohort {summary.cohort}: {summary.accepted} accepted, {summary.rejected} rejected, "
        f"{summary.unchanged} unchanged"
    )
    if summary.rejected:
        say(f"reasons: medsam3 sql \"SELECT case_id, reason FROM failures WHERE cohort = '{summary.cohort}'\"")
    return FAILED_CASES if summary.rejected else 0
