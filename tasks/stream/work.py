"""Batch work: the contract between the stream and a kind of work on cases, and the run of one batch on a worker."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psutil

from tasks.stream.breadcrumbs import Breadcrumb, BreadcrumbFolder


class BatchWork(Protocol):
    """A kind of work on cases; picklable. Workers call it, the driver uses its methods after a worker death."""

    def __call__(self, batch_id: str, cases: Sequence[Any], crumb: Breadcrumb) -> Mapping[str, int]:
        """Process a batch and commit its rows under `batch_id`; note every case in `crumb` before it begins.

        Returns:
            Cases by status. Faults of a case end in its rows; only faults of the whole batch are raised.
        """
        ...

    def unfinished(self, batch_id: str, cases: Sequence[Any]) -> tuple[list[Any], dict[str, int]]:
        """Cases that a batch had not committed when its worker died, and the number of others by status."""
        ...

    def record_crash(self, case: Any, reason: str) -> None:
        """Write the rows of a case that repeatedly crashes its worker."""
        ...


@dataclass(frozen=True, slots=True)
class BatchReport:
    """Counts and cost of a batch, which a worker returns; never voxels.

    Attributes:
        statuses: Cases by status.
        seconds: Wall time of the batch on the worker.
        rss_bytes: Resident memory of the worker process at the end of the batch.
    """

    statuses: dict[str, int]
    seconds: float
    rss_bytes: int


def run_batch(work: BatchWork, batch_id: str, crumbs: BreadcrumbFolder, cases: Sequence[Any]) -> BatchReport:
    """Process a batch in this process, with its breadcrumb, and measure time and memory."""
    started = time.perf_counter()
    with Breadcrumb(crumbs, batch_id) as crumb:
        statuses = dict(work(batch_id, cases, crumb))
    return BatchReport(statuses, time.perf_counter() - started, psutil.Process().memory_info().rss)
