"""Groups of cases that share the passes of an accelerator: read ahead, segmented together, scored and written behind.

One case at a time leaves an accelerator idle while a case is read, scored and written. Three threads process groups of
cases: one reads and prompts the next group, the caller runs the segmenter, one scores and writes the previous group.
On a CPU a group is one case, and there are no threads.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from medsam3_core.inference.one_ahead import one_ahead
from storage.runs.plan import PlannedCase
from tasks.stream.breadcrumbs import BETWEEN_CASES, Breadcrumb

Begun = TypeVar("Begun")


def in_passes(
    cases: Sequence[PlannedCase], together: int, begin: Callable[[PlannedCase], Begun], crumb: Breadcrumb
) -> Iterator[list[Begun]]:
    """Cases in groups that share passes, each begun; the next group is begun while the caller works on one.

    Args:
        cases: Units of work.
        together: Number of single-slice cases in a group; a volume is a group by itself. 1 processes case after case.
        begin: Reads and prompts a case; must not raise because of the case, since the whole group would fail.
        crumb: Notes the current case; for a group it notes none, so that a death of the worker blames no case and the
            cases run again one by one.
    """
    if together == 1:
        yield from ([begin(planned)] for planned in crumb.along(cases))
        return
    groups = list(groups_of(cases, together))
    for group, begun in one_ahead(lambda group: [begin(planned) for planned in group], groups):
        crumb.at(group[0].case_id if len(group) == 1 else BETWEEN_CASES)
        yield begun


@contextmanager
def one_behind(finish: Callable[[list[Begun]], None], *, threaded: bool) -> Iterator[Callable[[list[Begun]], None]]:
    """Give a function that finishes groups in order: at once or, `threaded`, in a thread behind the caller.

    At most one group is being finished; the next call waits for it. An error of `finish` is raised by the next call or
    at the end.
    """
    if not threaded:
        yield finish
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="finish-cases") as thread:
        finishing: Future[None] | None = None

        def hand_over(group: list[Begun]) -> None:
            nonlocal finishing
            if finishing is not None:
                finishing.result()
            finishing = thread.submit(finish, group)

        yield hand_over
        if finishing is not None:
            finishing.result()


def groups_of(cases: Sequence[PlannedCase], together: int) -> Iterator[list[PlannedCase]]:
    """Consecutive single-slice cases in groups of at most `together`, volumes alone; the order stays."""
    group: list[PlannedCase] = []
    for planned in cases:
        flat = planned.case.ndim == 2
        if group and not (flat and len(group) < together):
            yield group
            group = []
        if flat:
            group.append(planned)
        else:
            yield [planned]
    if group:
        yield group
