"""Cases of every flow: one bounded stream of batches over the workers, with a bar, and a line for every crash."""

import uuid
from collections.abc import Sequence

from flows.clusters.clusters import Workers
from flows.messages.console import say
from flows.messages.progress import reporting
from storage.store.layout import StoreLayout
from tasks.stream.breadcrumbs import BreadcrumbFolder, HasCaseId
from tasks.stream.sizing import BatchSizer
from tasks.stream.stream import StreamCounts, StreamHooks, run_stream
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
        title: Text of the bar.
        store: Store, which holds the breadcrumbs.
        work: The work on a batch.
        cases: Units of work in order.
        workers: Workers that do it.
        target_seconds: About how long a batch takes.
        resources: Dask resources that a batch asks for.

    Raises:
        BatchBreakerError: If whole batches keep failing.
        ClusterLostError: If the scheduler is gone for good.
        StoreError: If the store cannot be written.
    """
    with reporting(title, len(cases)) as reporter:
        return run_stream(
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
        )
