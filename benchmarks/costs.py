"""What two things cost that are done in turns: time on the clock, and of all threads."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """What something took.

    Attributes:
        wall: Seconds on the clock.
        cpu: Seconds of all threads of this process; with OMP_NUM_THREADS=1 other work on the machine adds nothing.
    """

    wall: float
    cpu: float


def interleaved(rounds: int, one: Callable[[], object], other: Callable[[], object]) -> tuple[Cost, Cost]:
    """Mean costs of two things done in turns, so that other work on the machine hits both alike."""
    costs = [(cost(one), cost(other)) for _ in range(rounds)]
    first, second = (
        Cost(sum(one.wall for one in column) / rounds, sum(one.cpu for one in column) / rounds)
        for column in zip(*costs, strict=True)
    )
    return first, second


def say(what: str, ours: Cost, theirs: Cost, wanted: str) -> None:
    """One line: both costs and their ratios."""
    print(
        f"{what}: {ours.wall:.2f} s and {theirs.wall:.2f} s: {theirs.wall / ours.wall:.2f} times faster ({wanted}); "
        f"CPU {ours.cpu:.2f} s and {theirs.cpu:.2f} s: {theirs.cpu / ours.cpu:.2f} times",
        flush=True,
    )


def cost(work: Callable[[], object]) -> Cost:
    """Do it once."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)
