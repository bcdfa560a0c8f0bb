"""Plan of a benchmark: the pending cases of its runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain

from medsam3_core.cases.cases import CaseStatus
from medsam3_core.errors import UsageError
from storage.catalog.catalog import Connection, connect
from storage.catalog.queries.runs import planned_structures
from storage.cohorts.cohorts import CaseRef, Cohort, latest_case_refs
from storage.prompts.tables import index_prompts
from storage.runs.ledger import Run, write_plan, write_run
from storage.runs.pending import NOTHING, Pairs, fresh_pairs, planned_pairs, predicted_pairs
from storage.runs.requests import BenchmarkRuns, RequestedRuns
from storage.store.layout import StoreLayout
from storage.weights.weights import Weights

NO_FILES: Mapping[str, str] = {}
"""Shared by all cases without stored prompts."""


@dataclass(frozen=True, slots=True)
class PlannedCase:
    """A case with the runs for which it is pending.

    Attributes:
        case: The case.
        run_ids: Runs to segment it for.
        rescore_ids: Runs whose stored prediction is current and only needs new scores.
        prompt_files: File with the stored prompts, by prompt id.
    """

    case: CaseRef
    run_ids: tuple[str, ...]
    rescore_ids: tuple[str, ...] = ()
    prompt_files: Mapping[str, str] = field(default_factory=lambda: NO_FILES)

    @property
    def case_id(self) -> str:
        """Id of the case."""
        return self.case.case_id


@dataclass(frozen=True, slots=True)
class WorkGroup:
    """Pending work for one cohort and one set of weights: one pass over the cases serves all its runs.

    Attributes:
        cohort: Cohort.
        weights: Weights.
        runs: Runs by id.
        pending: Cases to do.
        rejected: Cases without usable data, with the runs that must record them.
        fresh: Number of results (pairs of case and run) that are up to date.
    """

    cohort: Cohort
    weights: Weights
    runs: Mapping[str, Run]
    pending: tuple[PlannedCase, ...]
    rejected: tuple[PlannedCase, ...]
    fresh: int


@dataclass(frozen=True, slots=True)
class BenchmarkPlan:
    """Work that some requests need.

    Attributes:
        groups: All work.
        refused: One sentence per skipped combination and per request that cannot be met.
        asked: The runs by request.
    """

    groups: tuple[WorkGroup, ...]
    refused: tuple[str, ...]
    asked: tuple[RequestedRuns, ...]

    @property
    def run_ids(self) -> list[str]:
        """All runs, finished or not, in order."""
        return [run_id for group in self.groups for run_id in group.runs]

    @property
    def pending(self) -> int:
        """Pending cases of all groups."""
        return sum(len(group.pending) + len(group.rejected) for group in self.groups)

    @property
    def fresh(self) -> int:
        """Results (pairs of case and run) that are up to date, in all groups."""
        return sum(group.fresh for group in self.groups)


def pending(store: StoreLayout, runs: BenchmarkRuns) -> BenchmarkPlan:
    """Find the cases of some runs that must be computed; writes nothing.

    Reads every case and score, so call it once, under the locks of the runs. One pass over the cases of a cohort serves
    all runs of the same weights, also of different requests.

    Raises:
        UsageError: If a single request, or all of several, name a split or a cohort without cases; lists the splits.
    """
    groups: dict[tuple[str, str], WorkGroup] = {}
    cases: dict[str, list[CaseRef]] = {}
    refused = []
    with connect(store, "scores plan") as connection:
        for asked in runs.groups:
            name, request = asked.cohort.name, asked.request
            known = cases[name] if name in cases else cases.setdefault(name, latest_case_refs(store, name))
            try:
                chosen = select_cases(known, name, request.split, request.limit)
            except UsageError as error:
                if len({group.request for group in runs.groups}) == 1:
                    raise
                refused.append(str(error))
                continue
            whole = [_with_planned_structures(connection, asked.cohort, run) for run in asked.runs]
            group = _work_group(store, connection, asked.cohort, whole, chosen, retry=request.retry)
            key = (name, group.weights.sha256)
            groups[key] = _merged(groups[key], group) if key in groups else group
    if not groups:
        raise UsageError("; ".join(dict.fromkeys(refused)))
    return BenchmarkPlan(tuple(groups.values()), tuple(dict.fromkeys((*refused, *runs.refused))), runs.groups)


def record_plan(store: StoreLayout, group: WorkGroup) -> None:
    """Write run files and newly planned rows, before any work begins."""
    with connect(store, "scores plan") as connection:
        for run_id, run in group.runs.items():
            write_run(store, run)
            known = planned_pairs(connection, run)
            wanted = (
                (planned.case_id, rater, structure)
                for planned in chain(group.pending, group.rejected)
                if run_id in planned.run_ids or run_id in planned.rescore_ids
                for rater, structure in sorted(
                    wanted_pairs(planned.case, run) - known.get(planned.case_id, NOTHING), key=str
                )
            )
            write_plan(store, run, wanted)


def select_cases(cases: list[CaseRef], cohort: str, split: str | None, limit: int) -> list[CaseRef]:
    """Cases of a split, in their order, of all cases of a cohort.

    Raises:
        UsageError: If the cohort has no such split or no case.
    """
    splits = sorted({case.split for case in cases if case.split})
    if split is None:
        split = "test" if "test" in splits else "all"
    if split != "all" and split not in splits:
        msg = f"cohort {cohort!r} has no split {split!r}; it has: {', '.join([*splits, 'all'])}"
        raise UsageError(msg)
    chosen = [case for case in cases if split == "all" or case.split == split]
    if not chosen:
        msg = f"cohort {cohort!r} has no cases; ingest some with: medsam3 ingest SOURCE --cohort {cohort}"
        raise UsageError(msg)
    return chosen[:limit] if limit else chosen


def _with_planned_structures(connection: Connection, cohort: Cohort, run: Run) -> Run:
    """The run with all structures of its earlier plan added.

    A prediction holds all structures of its run: a request for another structure must not lose the earlier ones.
    """
    wanted = {*run.structures, *planned_structures(connection, run.run_id)}
    return replace(run, structures=tuple(item.name for item in cohort.recipe.structures if item.name in wanted))


def _work_group(
    store: StoreLayout,
    connection: Connection,
    cohort: Cohort,
    runs: Sequence[Run],
    cases: Sequence[CaseRef],
    *,
    retry: bool,
) -> WorkGroup:
    states = [(run, run.run_id, *_state(store, connection, run, cases, retry=retry)) for run in runs]
    left: list[tuple[CaseRef, tuple[str, ...], tuple[str, ...]]] = []
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    fresh = 0
    for case in cases:
        todo, rescore = [], []
        for run, run_id, done, predicted in states:
            wanted = wanted_pairs(case, run)
            if wanted <= done.get(case.case_id, NOTHING):
                fresh += 1
            elif wanted <= predicted.get((case.case_id, case.case_digest), NOTHING):
                rescore.append(run_id)
            else:
                todo.append(run_id)
        if todo or rescore:
            first, second = tuple(todo), tuple(rescore)
            left.append((case, shared.setdefault(first, first), shared.setdefault(second, second)))
    pending = {case.case_id for case, _, _ in left}
    prompts = {run.prompt_id: index_prompts(store, cohort.name, run.prompt_id, pending) for run in runs}
    planned = [PlannedCase(case, todo, rescore, _prompt_files(prompts, case)) for case, todo, rescore in left]
    usable = tuple(item for item in planned if item.case.status is CaseStatus.ACCEPTED)
    rejected = tuple(item for item in planned if item.case.status is not CaseStatus.ACCEPTED)
    return WorkGroup(cohort, runs[0].weights, {run.run_id: run for run in runs}, usable, rejected, fresh)


def _merged(one: WorkGroup, other: WorkGroup) -> WorkGroup:
    runs = dict(one.runs)
    for run_id, run in other.runs.items():
        known = {*run.structures, *(runs[run_id].structures if run_id in runs else ())}
        order = [structure.name for structure in one.cohort.recipe.structures]
        runs[run_id] = replace(run, structures=tuple(name for name in order if name in known))
    return replace(
        one,
        runs=runs,
        pending=_merged_cases(one.pending, other.pending),
        rejected=_merged_cases(one.rejected, other.rejected),
        fresh=one.fresh + other.fresh,
    )


def _merged_cases(one: Sequence[PlannedCase], other: Sequence[PlannedCase]) -> tuple[PlannedCase, ...]:
    cases = {item.case_id: item for item in one}
    for item in other:
        if (known := cases.get(item.case_id)) is not None:
            run_ids = tuple(dict.fromkeys((*known.run_ids, *item.run_ids)))
            rescore = dict.fromkeys((*known.rescore_ids, *item.rescore_ids))
            item = PlannedCase(
                item.case,
                run_ids,
                tuple(run_id for run_id in rescore if run_id not in run_ids),
                {**known.prompt_files, **item.prompt_files},
            )
        cases[item.case_id] = item
    return tuple(cases[case_id] for case_id in sorted(cases))


def _state(
    store: StoreLayout, connection: Connection, run: Run, cases: Sequence[CaseRef], *, retry: bool
) -> tuple[dict[str, Pairs], dict[tuple[str, str], Pairs]]:
    """Fresh pairs by case, and predicted pairs that only need new scores."""
    if not store.run_json(run.run_id).exists():
        return {}, {}
    done = fresh_pairs(connection, run, retry=retry)
    whole = {case.case_id for case in cases if wanted_pairs(case, run) <= done.get(case.case_id, NOTHING)}
    return done, predicted_pairs(store, run, whole)


def _prompt_files(prompts: Mapping[str, Mapping[tuple[str, str], str]], case: CaseRef) -> Mapping[str, str]:
    key = (case.case_id, case.case_digest)
    return {prompt_id: index[key] for prompt_id, index in prompts.items() if key in index} or NO_FILES


def wanted_pairs(case: CaseRef, run: Run) -> Pairs:
    """Pairs of a run and a case: every structure of every rater or, if the run only measures, of no rater."""
    return _wanted(() if run.measures else case.raters or ("reference",), run.structures)


@cache
def _wanted(raters: tuple[str, ...], structures: tuple[str, ...]) -> Pairs:
    return frozenset((rater, structure) for rater in raters or (None,) for structure in structures)
