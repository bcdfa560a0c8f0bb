"""How every flow runs its cases: one bounded stream of batches over the workers, crashes told and recorded."""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from flows.clusters.clusters import Workers
from flows.messages.console import say
from flows.messages.progress import reporting
from storage.store.layout import StoreLayout
from tasks.stream.breadcrumbs import BreadcrumbFolder
from tasks.stream.stream import (
    BatchSizer,
    BatchWork,
    HasCaseId,
    StreamCounts,
    StreamHooks,
    nothing_committed,
    run_stream,
)


def stream_cases(
    title: str,
    store: StoreLayout,
    work: BatchWork,
    cases: Sequence[HasCaseId],
    workers: Workers,
    *,
    record_crash: Callable[[Any, str], None],
    unfinished: Callable[[str, list[Any]], tuple[list[Any], dict[str, int]]] = nothing_committed,
    target_seconds: float = 5.0,
    resources: dict[str, float] | None = None,
) -> StreamCounts:
    """Run all cases; each is done or recorded as crashed when this returns.

    Args:
        title: What the bar says.
        store: Store, which holds the breadcrumbs.
        work: What a worker runs.
        cases: Units of work in order.
        workers: Where it runs.
        record_crash: Writes down a case that keeps killing its worker, and why; people are told here.
        unfinished: What is still to do of a batch whose worker died, see `StreamHooks`.
        target_seconds: About how long a batch takes.
        resources: Dask resources that a batch asks for.

    Raises:
        BatchBreakerError: If whole batches keep failing.
        ClusterLostError: If the scheduler is gone for good.
        StoreError: If the store cannot be written.
    """

    def poison(case: Any, reason: str) -> None:
        say(f"{case.case_id}: {reason}")
        record_crash(case, reason)

    with reporting(title, len(cases)) as reporter:
        return run_stream(
            workers.client,
            work,
            cases,
            sizer=BatchSizer(workers.slots, target_seconds=target_seconds),
            max_inflight=2 * workers.slots,
            crumbs=BreadcrumbFolder(store.breadcrumbs() / uuid.uuid4().hex[:12]),
            hooks=StreamHooks(poison, reporter.update, unfinished=unfinished, on_new_scheduler=workers.prepare_again),
            resources=resources,
        )
