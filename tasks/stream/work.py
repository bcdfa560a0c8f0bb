"""Batch work: the contract between the stream and a kind of work on cases, and the run of one batch on a worker."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psutil

from tasks.stream.breadcrumbs import Breadcrumb, BreadcrumbFolder


class BatchWork(Protocol):
    """A kind of work on cases; picklable. Workers call it, the driver asks its methods after a worker has died."""

    def __call__(self, batch_id: str, cases: Sequence[Any], crumb: Breadcrumb) -> Mapping[str, int]:
        """Do a batch and commit its rows under `batch_id`; note every case in `crumb` before work on it begins.

        Returns:
            How many cases ended how. Trouble with a case ends in its rows; only trouble of the whole batch is raised.
        """
        ...

    def unfinished(self, batch_id: str, cases: Sequence[Any]) -> tuple[list[Any], dict[str, int]]:
        """Cases that a batch had not committed when its worker died, and how many of the others ended how."""
        ...

    def record_crash(self, case: Any, reason: str) -> None:
        """Write the rows of a case that keeps killing its worker."""
        ...


@dataclass(frozen=True, slots=True)
class BatchReport:
    """Counts and cost of a batch, which a worker returns; never voxels.

    Attributes:
        statuses: How many cases ended how.
        seconds: Wall time of the batch on the worker.
        rss_bytes: Resident memory of the worker process at the end of the batch.
    """

    statuses: dict[str, int]
    seconds: float
    rss_bytes: int


def run_batch(work: BatchWork, batch_id: str, crumbs: BreadcrumbFolder, cases: Sequence[Any]) -> BatchReport:
    """Do a batch in this process, with its breadcrumb, and measure what it took."""
    started = time.perf_counter()
    with Breadcrumb(crumbs, batch_id) as crumb:
        statuses = dict(work(batch_id, cases, crumb))
    return BatchReport(statuses, time.perf_counter() - started, psutil.Process().memory_info().rss)
