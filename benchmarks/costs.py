"""Wall and CPU time of two pieces of work that run in turns."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """Time of a piece of work.

    Attributes:
        wall: Wall time in seconds.
        cpu: CPU seconds of all threads; other work on the machine adds little.
    """

    wall: float
    cpu: float


def interleaved(rounds: int, one: Callable[[], object], other: Callable[[], object]) -> tuple[Cost, Cost]:
    """Mean costs of two pieces of work run in turns, so that other load affects both alike."""
    costs = [(cost(one), cost(other)) for _ in range(rounds)]
    first, second = (
        Cost(sum(one.wall for one in column) / rounds, sum(one.cpu for one in column) / rounds)
        for column in zip(*costs, strict=True)
    )
    return first, second


def report_costs(title: str, ours: Cost, theirs: Cost, target: str) -> None:
    """Print both costs and their ratios on one line."""
    print(
        f"{title}: {ours.wall:.2f} s and {theirs.wall:.2f} s: {theirs.wall / ours.wall:.2f} times faster ({target}); "
        f"CPU {ours.cpu:.2f} s and {theirs.cpu:.2f} s: {theirs.cpu / ours.cpu:.2f} times",
        flush=True,
    )


def cost(work: Callable[[], object]) -> Cost:
    """Run a piece of work once."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)
