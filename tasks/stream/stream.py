"""The bounded stream: batches of cases over one Dask client, with every fault of a worker accounted for.

Rules, and why (measured, see docs/reliability.md):
- At most `max_inflight` batches are out, so that driver and scheduler stay flat for a million cases.
- The scheduler must run with `allowed-failures: 0`: the retry policy is here, and here alone.
- A batch whose worker died is blamed on the case in its breadcrumb. First strike: the case runs again, alone and after
  all others, when what killed workers by chance (a node that went down) is over, or has been seen to. Second strike: it
  is poison, unless workers die of other things too (`tasks.stream.deaths`). Its neighbours run again without blame.
- A worker may die after it has committed and before it could say so: what is committed is never computed again.
- A scheduler that is restarted comes back empty: workers are prepared anew and the batches that were out run again.
- An exception of a whole batch (import, network, full disk) writes nothing; after a few in a row the breaker opens.
"""

import itertools
import os
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from distributed import Client, Future, KilledWorker, as_completed

from medsam3_core.errors import Medsam3Error, StoreError
from tasks.stream.breadcrumbs import BreadcrumbFolder, HasCaseId
from tasks.stream.deaths import DeathRecord, killed_over_memory, suspect
from tasks.stream.interrupts import interrupts_held
from tasks.stream.sizing import BatchSizer
from tasks.stream.work import BatchReport, BatchWork, run_batch

MAX_BATCH_ERRORS_IN_A_ROW = 3


class BatchBreakerError(Medsam3Error):
    """Whole batches fail one after the other; the run stops and the cases stay pending."""


class ClusterLostError(Medsam3Error):
    """The scheduler went away and did not come back; the cases that were out stay pending."""


@dataclass
class StreamCounts:
    """Progress of a stream."""

    done: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    lost_batches: int = 0
    poisoned: int = 0
    peak_rss_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StreamHooks:
    """Calls of the stream to its owner, on the driver.

    Attributes:
        on_poison: Called with a case that keeps killing its worker, and the reason, before its crash is recorded.
        on_progress: Called after each batch; must be quick and must not raise.
        should_stop: Asked before each submission.
        on_new_scheduler: Called when the scheduler was restarted: it knows no plugin any more.
    """

    on_poison: Callable[[Any, str], None]
    on_progress: Callable[[StreamCounts], None] = lambda counts: None
    should_stop: Callable[[], bool] = lambda: False
    on_new_scheduler: Callable[[Client], None] = lambda client: None


def run_stream(
    client: Client,
    work: BatchWork,
    cases: Sequence[HasCaseId],
    *,
    sizer: BatchSizer,
    max_inflight: int,
    crumbs: BreadcrumbFolder,
    hooks: StreamHooks,
    resources: dict[str, float] | None = None,
) -> StreamCounts:
    """Run all cases; returns when each is done, recorded as poison, or `should_stop` says so.

    Args:
        client: A client with `set_as_default=False` will do.
        work: The work on a batch.
        cases: Units of work in order.
        sizer: Chooses how many go into a batch.
        max_inflight: Batches that are out at a time; two per worker keep the next one ready.
        crumbs: Folder that driver and workers share.
        hooks: Calls to the owner of the stream.
        resources: Dask resources per batch, for example `{"GPU": 1}`.

    Raises:
        BatchBreakerError: If whole batches keep failing.
        ClusterLostError: If the scheduler is gone for good.
        StoreError: If the store cannot be written.
    """
    return _Stream(client, work, cases, sizer, max_inflight, crumbs, hooks, resources).run()


class _Stream:
    def __init__(
        self,
        client: Client,
        work: BatchWork,
        cases: Sequence[HasCaseId],
        sizer: BatchSizer,
        max_inflight: int,
        crumbs: BreadcrumbFolder,
        hooks: StreamHooks,
        resources: dict[str, float] | None,
    ) -> None:
        self._client, self._work, self._sizer, self._crumbs = client, work, sizer, crumbs
        self._run_batch = partial(run_batch, work)
        self._max_inflight, self._resources, self._hooks = max_inflight, resources, hooks
        self._source: Iterator[Any] = iter(cases)
        self._remaining = len(cases)
        self._redo: deque[list[Any]] = deque()
        self._struck: deque[list[Any]] = deque()
        self._live: dict[Future, list[Any]] = {}
        # `loop` is required for a client that is not the default one.
        self._completed = as_completed(raise_errors=False, loop=client.loop)
        self._deaths = DeathRecord()
        self._errors_in_a_row = 0
        scheduler = client.scheduler_info(n_workers=0)
        self._scheduler, self._address = scheduler["id"], scheduler["address"]
        self._prefix = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._sequence = itertools.count()
        self.counts = StreamCounts()

    def run(self) -> StreamCounts:
        started = time.perf_counter()
        try:
            with interrupts_held():
                self._top_up()
            while self._live:
                finished = next(self._completed)
                if finished.cancelled():  # the scheduler is gone, and what it held with it
                    self._await_scheduler()
                with interrupts_held():
                    self._finish(finished)
                    self._hooks.on_progress(self.counts)
                    self._top_up()
        finally:
            with interrupts_held():
                if self._live:
                    self._client.cancel(list(self._live), force=True)
                self._crumbs.remove()
            self.counts.seconds = time.perf_counter() - started
        return self.counts

    def _top_up(self) -> None:
        while len(self._live) < self._max_inflight and not self._hooks.should_stop():
            batch = self._redo.popleft() if self._redo else self._next_batch()
            if not batch and self._struck:
                batch = self._struck.popleft()
            if not batch:
                return
            key = f"batch-{self._prefix}-{next(self._sequence)}"
            future = self._client.submit(
                self._run_batch, key, self._crumbs, batch, key=key, pure=False, retries=0, resources=self._resources
            )
            self._live[future] = batch
            self._completed.add(future)

    def _next_batch(self) -> list[Any]:
        batch = list(itertools.islice(self._source, self._sizer.next(self._remaining))) if self._remaining else []
        self._remaining -= len(batch)
        return batch

    def _finish(self, future: Future) -> None:
        batch = self._live.pop(future)
        try:
            report: BatchReport = future.result()  # raises even after "finished" if the result died with its worker
        except KilledWorker as error:
            self._lost(future.key, batch, over_memory=killed_over_memory(self._client, error))
        except CancelledError:
            unfinished = self._uncommitted(future.key, batch)
            self._redo.extend([unfinished] if unfinished else [])
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - any batch-level error: not the cases' fault, the breaker decides
            self._failed(future.key, batch, error)
        else:
            self._done(batch, report)
            for case in batch if self._deaths.strikes else ():
                self._deaths.clear(case.case_id)
        self._crumbs.drop(future.key)
        future.release()

    def _done(self, batch: list[Any], report: BatchReport) -> None:
        self._errors_in_a_row = 0
        self._sizer.learn(len(batch), report.seconds)
        self.counts.done += len(batch)
        self.counts.batches += 1
        self.counts.statuses.update(report.statuses)
        self.counts.peak_rss_bytes = max(self.counts.peak_rss_bytes, report.rss_bytes)

    def _failed(self, batch_id: str, batch: list[Any], error: Exception) -> None:
        self._errors_in_a_row += 1
        batch = self._uncommitted(batch_id, batch)
        if self._errors_in_a_row >= MAX_BATCH_ERRORS_IN_A_ROW:
            msg = (
                f"{self._errors_in_a_row} batches in a row failed as a whole, last {type(error).__name__}: {error}; "
                "nothing was written for their cases: mend the cause and run the same command again"
            )
            raise BatchBreakerError(msg) from error
        time.sleep(min(0.5 * self._errors_in_a_row, 5.0))  # a network that comes back deserves a moment
        self._redo.extend([batch] if batch else [])

    def _await_scheduler(self) -> None:
        """Wait until the client has found its scheduler again (it tries on its own) and prepare the new workers."""
        while self._client.status == "connecting":
            time.sleep(0.1)
        if self._client.status != "running":
            msg = (
                f"the Dask scheduler at {self._address} went away and did not come back; all that is "
                "finished is kept: start the cluster again and run the same command"
            )
            raise ClusterLostError(msg)
        scheduler = self._client.scheduler_info(n_workers=0)["id"]
        if scheduler != self._scheduler:
            self._scheduler = scheduler
            self._hooks.on_new_scheduler(self._client)

    def _lost(self, batch_id: str, batch: list[Any], *, over_memory: bool) -> None:
        """The worker died while it held this batch: blame the case in the breadcrumb, spare the others.

        The breadcrumb alone may mislead: when a worker dies with a result that was not fetched yet, Dask runs the batch
        once more, and the breadcrumb is that of the second run. So committed cases are always looked up.
        """
        self.counts.lost_batches += 1
        note = self._crumbs.read(batch_id)
        case, others = suspect(self._uncommitted(batch_id, batch), note)
        self._redo.extend(others)
        if case is None:
            return
        if not self._deaths.strike(case.case_id, over_memory=over_memory):
            self._struck.append([case])
            return
        self.counts.done += 1
        self.counts.poisoned += 1
        self.counts.statuses["crashed"] += 1
        reason = self._deaths.reason(case.case_id)
        self._hooks.on_poison(case, reason)
        self._work.record_crash(case, reason)

    def _uncommitted(self, batch_id: str, batch: list[Any]) -> list[Any]:
        """Cases that this batch had not committed; the rest counts as done."""
        unfinished, statuses = self._work.unfinished(batch_id, batch)
        self.counts.done += len(batch) - len(unfinished)
        self.counts.statuses.update(statuses)
        return unfinished
