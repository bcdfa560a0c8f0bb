"""The bounded stream: batches of cases over one Dask client, with every fault of a worker accounted for.

Rules, and why (measured, see docs/reliability.md):
- At most `max_inflight` batches are out, so that driver and scheduler stay flat for a million cases.
- The scheduler must run with `allowed-failures: 0`: the retry policy is here, and here alone.
- A batch whose worker died is blamed on the case in its breadcrumb. First strike: the case runs again, alone. Second
  strike: it is poison. Its neighbours run again without blame.
- An exception of a whole batch (import error, network, full disk) is not the cases' fault: nothing is written for
  them, and the breaker opens after a few in a row.
"""

import itertools
import os
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any, Protocol

from distributed import Client, Future, KilledWorker, as_completed

from medsam3_core.errors import Medsam3Error, StoreError
from tasks.breadcrumbs import BETWEEN_CASES, BreadcrumbFolder
from tasks.interrupts import interrupts_held

MAX_STRIKES = 2
MAX_BATCH_ERRORS_IN_A_ROW = 3


class BatchBreakerError(Medsam3Error):
    """Whole batches fail one after the other; the run stops and the cases stay pending."""


class HasCaseId(Protocol):
    """What a stream must know about a unit of work."""

    @property
    def case_id(self) -> str:
        """Names the case in breadcrumbs."""
        ...


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a worker returns for a batch: counts and cost, never voxels.

    Attributes:
        statuses: How many cases ended how.
        seconds: Wall time of the batch on the worker.
        worker: Worker process.
        peak_rss_bytes: Highest resident memory of the worker process so far.
    """

    statuses: dict[str, int]
    seconds: float
    worker: str = ""
    peak_rss_bytes: int = 0


class BatchWork(Protocol):
    """The function that a worker runs; picklable."""

    def __call__(self, batch_id: str, crumbs: BreadcrumbFolder, cases: Sequence[Any]) -> BatchReport:
        """Do a batch; case-level trouble is recorded, only batch-level trouble is raised."""
        ...


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


class BatchSizer:
    """Chooses how many cases make a batch: about `target_seconds` of work, smaller near the end."""

    def __init__(self, slots: int, *, target_seconds: float = 10.0, first: int = 2, largest: int = 500) -> None:
        self._slots = max(1, slots)
        self._target = target_seconds
        self._first = first
        self._largest = largest
        self._seconds_per_case: float | None = None

    def learn(self, cases: int, seconds: float) -> None:
        """Take a finished batch into account."""
        if cases:
            latest = max(seconds / cases, 1e-4)
            known = self._seconds_per_case
            self._seconds_per_case = latest if known is None else 0.6 * known + 0.4 * latest

    def next(self, remaining: int) -> int:
        """Size of the next batch, at least 1."""
        if self._seconds_per_case is None:
            size = self._first
        else:
            fair_share = -(-remaining // (3 * self._slots))
            size = min(round(self._target / self._seconds_per_case), fair_share, self._largest)
        return max(1, min(size, remaining))


def run_stream(
    client: Client,
    work: BatchWork,
    cases: Sequence[HasCaseId],
    *,
    sizer: BatchSizer,
    max_inflight: int,
    crumbs: BreadcrumbFolder,
    on_poison: Callable[[Any, str], None],
    on_progress: Callable[[StreamCounts], None] = lambda counts: None,
    resources: dict[str, float] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> StreamCounts:
    """Run all cases; returns when each is done, recorded as poison, or `should_stop` says so.

    Args:
        client: A client with `set_as_default=False` will do.
        work: What a worker runs.
        cases: Units of work in order.
        sizer: How many go into a batch.
        max_inflight: Batches that are out at a time; two per worker keep the next one ready.
        crumbs: Folder that driver and workers share.
        on_poison: Called with a case that killed its worker twice, and the reason.
        on_progress: Called after each batch; must be quick and must not raise.
        resources: Dask resources per batch, for example `{"GPU": 1}`.
        should_stop: Asked before each submission.

    Raises:
        BatchBreakerError: If whole batches keep failing.
        StoreError: If the store cannot be written.
    """
    return _Stream(
        client, work, cases, sizer, max_inflight, crumbs, on_poison, on_progress, resources, should_stop
    ).run()


class _Stream:
    def __init__(
        self,
        client: Client,
        work: BatchWork,
        cases: Sequence[HasCaseId],
        sizer: BatchSizer,
        max_inflight: int,
        crumbs: BreadcrumbFolder,
        on_poison: Callable[[Any, str], None],
        on_progress: Callable[[StreamCounts], None],
        resources: dict[str, float] | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self._client, self._work, self._sizer, self._crumbs = client, work, sizer, crumbs
        self._max_inflight, self._resources = max_inflight, resources
        self._on_poison, self._on_progress, self._should_stop = on_poison, on_progress, should_stop
        self._source: Iterator[Any] = iter(cases)
        self._remaining = len(cases)
        self._redo: deque[list[Any]] = deque()
        self._live: dict[Future, list[Any]] = {}
        # `loop` is required for a client that is not the default one.
        self._completed = as_completed(raise_errors=False, loop=client.loop)
        self._strikes: Counter[str] = Counter()
        self._errors_in_a_row = 0
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
                with interrupts_held():
                    self._finish(finished)
                    self._on_progress(self.counts)
                    self._top_up()
        finally:
            with interrupts_held():
                if self._live:
                    self._client.cancel(list(self._live), force=True)
                self._crumbs.remove()
            self.counts.seconds = time.perf_counter() - started
        return self.counts

    def _top_up(self) -> None:
        while len(self._live) < self._max_inflight and not self._should_stop():
            batch = self._redo.popleft() if self._redo else self._next_batch()
            if not batch:
                return
            key = f"batch-{self._prefix}-{next(self._sequence)}"
            future = self._client.submit(
                self._work, key, self._crumbs, batch, key=key, pure=False, retries=0, resources=self._resources
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
        except KilledWorker:
            self._lost(future.key, batch)
        except CancelledError:  # the scheduler was restarted
            self._redo.append(batch)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - any batch-level error: not the cases' fault, the breaker decides
            self._failed(batch, error)
        else:
            self._done(batch, report)
        self._crumbs.drop(future.key)
        future.release()

    def _done(self, batch: list[Any], report: BatchReport) -> None:
        self._errors_in_a_row = 0
        self._sizer.learn(len(batch), report.seconds)
        self.counts.done += len(batch)
        self.counts.batches += 1
        self.counts.statuses.update(report.statuses)
        self.counts.peak_rss_bytes = max(self.counts.peak_rss_bytes, report.peak_rss_bytes)

    def _failed(self, batch: list[Any], error: Exception) -> None:
        self._errors_in_a_row += 1
        if self._errors_in_a_row >= MAX_BATCH_ERRORS_IN_A_ROW:
            msg = (
                f"{self._errors_in_a_row} batches in a row failed as a whole, last {type(error).__name__}: {error}; "
                "nothing was written for their cases: mend the cause and run the same command again"
            )
            raise BatchBreakerError(msg) from error
        time.sleep(min(0.5 * self._errors_in_a_row, 5.0))  # a network that comes back deserves a moment
        self._redo.append(batch)

    def _lost(self, batch_id: str, batch: list[Any]) -> None:
        """The worker died while it held this batch: blame the case in the breadcrumb, spare the others."""
        self.counts.lost_batches += 1
        guilty = self._crumbs.read(batch_id)
        if guilty is None:  # queued and never begun: nobody is to blame
            self._redo.append(batch)
            return
        if guilty == BETWEEN_CASES and len(batch) > 1:  # died while it committed: find out one by one
            self._redo.extend([case] for case in batch)
            return
        position = next((index for index, case in enumerate(batch) if case.case_id == guilty), 0)
        case = batch[position]
        self._strikes[case.case_id] += 1
        if self._strikes[case.case_id] >= MAX_STRIKES:
            self.counts.done += 1
            self.counts.poisoned += 1
            self.counts.statuses["crashed"] += 1
            self._on_poison(case, f"killed its worker {self._strikes[case.case_id]} times")
        else:
            self._redo.append([case])
        self._redo.extend(part for part in (batch[:position], batch[position + 1 :]) if part)
