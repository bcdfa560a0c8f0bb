"""Cases that share the passes of an accelerator: read ahead, segmented together, scored and written behind.

One case at a time leaves an accelerator idle while a case is read, scored and written. Here three threads hand groups
of cases on: one reads and prompts the next group, the caller's runs the segmenter, one scores and writes the group
before. What goes wrong with a case stays with it until its turn to be written, so that its neighbours do not suffer; a
group that fails as a whole is segmented case by case. On a CPU a group is one case, and there are no threads.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from medsam3_core.inference.one_ahead import one_ahead
from storage.runs.plan import PlannedCase
from tasks.stream.breadcrumbs import BETWEEN_CASES, Breadcrumb

Work = TypeVar("Work")


class CaseStages(Protocol[Work]):
    """The three stages of a case. Each may raise what is wrong; stages of different cases run at the same time."""

    def open(self, planned: PlannedCase) -> Work:
        """Read and prompt a case."""
        ...

    def segment(self, works: Sequence[Work]) -> None:
        """Answer the prompts of several cases; called again with single ones if that fails."""
        ...

    def finish(self, planned: PlannedCase, work: Work | None, error: Exception | None) -> None:
        """Score and write a case, or what went wrong with it; the only stage that writes rows."""
        ...


@dataclass(eq=False)
class _CaseInHand(Generic[Work]):
    planned: PlannedCase
    work: Work | None = None
    error: Exception | None = None


def run_groups(cases: Sequence[PlannedCase], together: int, stages: CaseStages[Work], crumb: Breadcrumb) -> None:
    """Take all cases through their stages.

    Args:
        cases: Units of work.
        together: Cases of one slice that make a group; a volume is a group of its own. 1 works case after case.
        stages: What is done.
        crumb: Says which case is in hand; for a group it is none, so that a death of the worker blames nobody and its
            cases run again one by one.
    """
    if together == 1:
        for planned in cases:
            crumb.at(planned.case_id)
            hand = _opened(planned, stages)
            _segment([hand], stages)
            stages.finish(planned, hand.work, hand.error)
        return
    groups = list(groups_of(cases, together))
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="finish-cases") as behind:
        finishing: Future[None] | None = None
        for group, hands in one_ahead(lambda group: [_opened(planned, stages) for planned in group], groups):
            crumb.at(group[0].case_id if len(group) == 1 else BETWEEN_CASES)
            _segment(hands, stages)
            if finishing is not None:
                finishing.result()
            finishing = behind.submit(_finish, hands, stages)
        if finishing is not None:
            finishing.result()


def groups_of(cases: Sequence[PlannedCase], together: int) -> Iterator[list[PlannedCase]]:
    """Neighbours of one slice each in groups of at most `together`, volumes alone; the order stays."""
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


def _opened(planned: PlannedCase, stages: CaseStages[Work]) -> _CaseInHand[Work]:
    try:
        return _CaseInHand(planned, stages.open(planned))
    except Exception as error:  # noqa: BLE001 - decided where the case is finished
        return _CaseInHand(planned, error=error)


def _segment(hands: Sequence[_CaseInHand[Work]], stages: CaseStages[Work]) -> None:
    usable = [hand for hand in hands if hand.work is not None]
    try:
        stages.segment([hand.work for hand in usable if hand.work is not None])
    except Exception as error:  # noqa: BLE001 - decided where the case is finished
        if len(usable) == 1:
            usable[0].error = error
            return
        for hand in usable:
            _segment([hand], stages)


def _finish(hands: Sequence[_CaseInHand[Work]], stages: CaseStages[Work]) -> None:
    for hand in hands:
        stages.finish(hand.planned, hand.work, hand.error)
