"""Attribution of worker deaths to cases: strikes per case, and the number that makes a case poison.

A case gets a strike if a worker dies while processing it. Two strikes make it poison, unless workers also die of other
causes. Every struck case that succeeds later proves other causes (a node that goes down, a manual `kill`): then more
strikes are needed, so that chance does not make a case poison.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from distributed import Client, KilledWorker

from tasks.stream.breadcrumbs import BETWEEN_CASES, Item

MAX_STRIKES = 2
MAX_STRIKES_AMONG_OTHER_DEATHS = 4
_MEMORY_EVENTS = "worker-restart-memory"  # topic of the Dask nanny when it kills a worker over its limit


@dataclass
class DeathRecord:
    """Strikes of one stream."""

    strikes: Counter[str] = field(default_factory=Counter)
    over_memory: Counter[str] = field(default_factory=Counter)
    cleared: int = 0

    @property
    def enough(self) -> int:
        """Strikes that make a case poison, given the number of cases that were struck and succeeded later."""
        return min(MAX_STRIKES + self.cleared, MAX_STRIKES_AMONG_OTHER_DEATHS)

    def strike(self, case_id: str, *, over_memory: bool) -> bool:
        """Count a worker death during this case; True if the case is poison now."""
        self.strikes[case_id] += 1
        self.over_memory[case_id] += over_memory
        return self.strikes[case_id] >= self.enough

    def clear(self, case_id: str) -> None:
        """Note that this case succeeded."""
        if self.strikes.pop(case_id, 0):
            self.cleared += 1

    def reason(self, case_id: str) -> str:
        """Reason in the ledger for a poison case."""
        times = self.strikes[case_id]
        if self.over_memory[case_id] == times:
            return (
                f"killed its worker {times} times by exceeding its memory limit; raise memory_limit of the cluster "
                "and run again with --retry"
            )
        return f"killed its worker {times} times"


def suspect(batch: Sequence[Item], note: str | None) -> tuple[Item | None, list[list[Item]]]:
    """The case to strike for the death of a worker, and the rest of its batch, as batches that run again.

    Args:
        batch: Cases of the batch that were not committed.
        note: Breadcrumb of the batch, None if it never began.

    Returns:
        None for the case if none is to blame: the batch was queued and never began, the case in the breadcrumb was
        committed before, or the worker died during or after the commit; then cases run again one by one.
    """
    if note == BETWEEN_CASES and len(batch) > 1:
        return None, [[case] for case in batch]
    named = [index for index, case in enumerate(batch) if note in (case.case_id, BETWEEN_CASES)]
    if not named:
        return None, [list(batch)] if batch else []
    position = named[0]
    return batch[position], [list(part) for part in (batch[:position], batch[position + 1 :]) if part]


def killed_over_memory(client: Client, error: KilledWorker) -> bool:
    """True if the nanny killed this worker because it exceeded its memory limit."""
    address = getattr(error.last_worker, "address", None)
    events = client.get_events(_MEMORY_EVENTS)
    return any(isinstance(event, dict) and event.get("worker") == address for _, event in events)
