"""One bounded stream of batches over the workers, for the cases of every flow; shows progress and crashes."""

import uuid
from collections.abc import Sequence
from contextlib import closing

from flows.clusters.clusters import Workers
from flows.messages.console import say
from flows.messages.progress import ProgressReporter
from storage.store.layout import StoreLayout
from tasks.stream.breadcrumbs import BreadcrumbFolder, HasCaseId
from tasks.stream.sizing import BatchSizer
from tasks.stream.stream import Stream, StreamCounts, StreamHooks
from tasks.stream.work import BatchWork


def stream_cases(
    title: str,
    store: StoreLayout,
    work: BatchWork,
    cases: Sequence[HasCaseId],
    workers: Workers,
    *,
    target_seconds: float = 5.0,
    resources: dict[str, float] | None = None,
) -> StreamCounts:
    """Run all cases; each is done or recorded as crashed when this returns.

    Args:
        title: Title of the progress bar.
        store: Store that holds the breadcrumbs.
        work: Work on one batch.
        cases: Units of work, in order.
        workers: The cluster.
        target_seconds: Desired duration of a batch.
        resources: Dask resources that a batch requires.

    Raises:
        BatchBreakerError: If whole batches keep failing.
        ClusterLostError: If the scheduler does not come back.
        StoreError: If the store cannot be written.
    """
    with closing(ProgressReporter(title, len(cases))) as reporter:
        return Stream(
            workers.client,
            work,
            cases,
            sizer=BatchSizer(workers.slots, target_seconds=target_seconds),
            max_inflight=2 * workers.slots,
            crumbs=BreadcrumbFolder(store.breadcrumbs() / uuid.uuid4().hex[:12]),
            hooks=StreamHooks(
                lambda case, reason: say(f"{case.case_id}: {reason}"),
                reporter.update,
                on_new_scheduler=workers.prepare_again,
            ),
            resources=resources,
        ).run()
