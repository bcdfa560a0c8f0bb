"""The bounded stream: batches of cases over one Dask client, with handling of every worker fault.

Rules, and reasons (measured, see docs/reliability.md):
- At most `max_inflight` batches are in flight, so that driver and scheduler use constant memory for a million cases.
- The scheduler must run with `allowed-failures: 0`: only the stream retries.
- A worker death is blamed on the case in the breadcrumb of its batch. First strike: the case runs again, alone and
  after all others, when a cause by chance (a node that went down) is likely over. Second strike: it is poison, unless
  workers also die of other causes (`tasks.stream.deaths`). The other cases of its batch run again without a strike.
- A worker may die after its commit and before its report: committed cases are never computed again.
- A restarted scheduler is empty: workers are prepared again, and the batches in flight run again.
- An exception of a whole batch (import, network, full disk) writes nothing; after a few in a row the stream stops.
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
    """Several whole batches failed in a row; the run stops and the cases stay pending."""


class ClusterLostError(Medsam3Error):
    """The scheduler was lost and did not come back; cases in flight stay pending."""


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
        on_poison: Called with a case that repeatedly crashes its worker, and the reason, before its crash is recorded.
        on_progress: Called after each batch; must be quick and must not raise.
        should_stop: Called before each submission.
        on_new_scheduler: Called after a restart of the scheduler, which has lost all plugins.
    """

    on_poison: Callable[[Any, str], None]
    on_progress: Callable[[StreamCounts], None] = lambda counts: None
    should_stop: Callable[[], bool] = lambda: False
    on_new_scheduler: Callable[[Client], None] = lambda client: None


class Stream:
    """All cases of a run, streamed over a cluster.

    Args:
        client: Dask client, also with `set_as_default=False`.
        sizer: Chooses the number of cases in a batch.
        max_inflight: Batches in flight; two per worker keep the next one ready.
        crumbs: Folder that driver and workers share.
        hooks: Calls to the owner of the stream.
        resources: Dask resources per batch, for example `{"GPU": 1}`.
    """

    def __init__(
        self,
        client: Client,
        work: BatchWork,
        cases: Sequence[HasCaseId],
        *,
        sizer: BatchSizer,
        max_inflight: int,
        crumbs: BreadcrumbFolder,
        hooks: StreamHooks,
        resources: dict[str, float] | None = None,
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
        """Run until each case is done or recorded as poison, or `should_stop` is true.

        Raises:
            BatchBreakerError: If several whole batches fail in a row.
            ClusterLostError: If the scheduler does not come back.
            StoreError: If the store cannot be written.
        """
        started = time.perf_counter()
        try:
            with interrupts_held():
                self._top_up()
            while self._live:
                finished = next(self._completed)
                if finished.cancelled():  # the scheduler was lost with all its results
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
        except Exception as error:  # noqa: BLE001 - an error of the whole batch, not of its cases
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
                "nothing was written for their cases: fix the cause and run the same command again"
            )
            raise BatchBreakerError(msg) from error
        time.sleep(min(0.5 * self._errors_in_a_row, 5.0))  # time for a network to come back
        self._redo.extend([batch] if batch else [])

    def _await_scheduler(self) -> None:
        """Wait until the client has reconnected to its scheduler and prepare the new workers."""
        while self._client.status == "connecting":
            time.sleep(0.1)
        if self._client.status != "running":
            msg = (
                f"the Dask scheduler at {self._address} was lost and did not come back; finished cases are "
                "kept: start the cluster again and run the same command"
            )
            raise ClusterLostError(msg)
        scheduler = self._client.scheduler_info(n_workers=0)["id"]
        if scheduler != self._scheduler:
            self._scheduler = scheduler
            self._hooks.on_new_scheduler(self._client)

    def _lost(self, batch_id: str, batch: list[Any], *, over_memory: bool) -> None:
        """Handle the death of the worker of a batch: strike the case in the breadcrumb, run the others again.

        The breadcrumb alone may mislead: if a worker dies with a result that was not fetched yet, Dask runs the batch
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
        """Cases that this batch had not committed; the others count as done."""
        unfinished, statuses = self._work.unfinished(batch_id, batch)
        self.counts.done += len(batch) - len(unfinished)
        self.counts.statuses.update(statuses)
        return unfinished
