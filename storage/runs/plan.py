"""From a request to runs, and from a run to the cases that are still to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain

from medsam3_core.cases.cases import CaseStatus
from medsam3_core.errors import UsageError
from medsam3_core.prompts.policies import PromptPolicy
from medsam3_core.settings.inference import InferenceSettings
from storage.catalog.catalog import Connection, connect
from storage.catalog.queries.runs import planned_structures
from storage.cohorts.cohorts import CaseRef, Cohort, latest_case_refs, read_cohort
from storage.prompts.tables import index_prompts
from storage.runs.ledger import Run, write_plan, write_run
from storage.runs.pending import NOTHING, Pairs, fresh_pairs, planned_pairs, predicted_pairs
from storage.runs.refusals import refusal, remedy
from storage.store.atomic import read_json
from storage.store.layout import StoreLayout
from storage.weights.registry import find_weights
from storage.weights.weights import Weights


@dataclass(frozen=True, slots=True)
class BenchmarkRequest:
    """What a user asks to benchmark; every combination of cohort, weights and prompt policy is one run.

    Attributes:
        cohorts: Cohorts by name.
        weights: Weights as `NAME` or `NAME@N`.
        prompts: Prompt policies as text.
        settings: Inference settings as `key=value`.
        split: Split, `all`, or None for `test` where the cohort has one and all cases otherwise.
        structures: Structures; empty means all of the recipe.
        limit: At most so many cases per cohort, in order of case_id; 0 means all.
        retry: Whether rejected, failed and crashed cases are tried again.
    """

    cohorts: tuple[str, ...]
    weights: tuple[str, ...]
    prompts: tuple[str, ...]
    settings: tuple[str, ...] = ()
    split: str | None = None
    structures: tuple[str, ...] = ()
    limit: int = 0
    retry: bool = False


NO_FILES: Mapping[str, str] = {}
"""Shared by all cases without stored prompts."""


@dataclass(frozen=True, slots=True)
class PlannedCase:
    """A case with the runs that still want it.

    Attributes:
        case: The case.
        run_ids: Runs to segment it for.
        rescore_ids: Runs whose stored prediction is current and only needs new scores.
        prompt_files: Prompt id to the file that holds its prompts, where they exist.
    """

    case: CaseRef
    run_ids: tuple[str, ...]
    rescore_ids: tuple[str, ...] = ()
    prompt_files: Mapping[str, str] = field(default_factory=lambda: NO_FILES)

    @property
    def case_id(self) -> str:
        """Names the case in breadcrumbs."""
        return self.case.case_id


@dataclass(frozen=True, slots=True)
class WorkGroup:
    """All that is pending for one cohort and one set of weights: one pass over the cases serves all its runs.

    Attributes:
        cohort: Cohort.
        weights: Weights.
        runs: Runs by id.
        pending: Cases to do.
        rejected: Cases without usable data, with the runs that must record them.
        fresh: Case and run pairs that are done already.
    """

    cohort: Cohort
    weights: Weights
    runs: Mapping[str, Run]
    pending: tuple[PlannedCase, ...]
    rejected: tuple[PlannedCase, ...]
    fresh: int


@dataclass(frozen=True, slots=True)
class BenchmarkPlan:
    """Work groups, and the combinations that no segmenter takes (one sentence each)."""

    groups: tuple[WorkGroup, ...]
    refused: tuple[str, ...]

    @property
    def run_ids(self) -> list[str]:
        """All runs, done or not, in order."""
        return [run_id for group in self.groups for run_id in group.runs]

    @property
    def pending(self) -> int:
        """Cases to do over all groups."""
        return sum(len(group.pending) + len(group.rejected) for group in self.groups)


def plan_benchmark(store: StoreLayout, request: BenchmarkRequest) -> BenchmarkPlan:
    """Decide what must be computed; writes nothing.

    Raises:
        UsageError: If a name does not exist or the request cannot give a single run; lists what exists.
    """
    settings = InferenceSettings.parse(request.settings)
    policies = [PromptPolicy.parse(text) for text in dict.fromkeys(request.prompts)]
    weights = [find_weights(store, text) for text in dict.fromkeys(request.weights)]
    cohorts = [read_cohort(store, name) for name in dict.fromkeys(request.cohorts)]
    refused = [
        sentence + remedy(store, item, policy, settings)
        for item in weights
        for policy in policies
        if (sentence := refusal(item, policy, settings)) is not None
    ]
    groups = []
    with connect(store, "scores plan") as connection:
        for cohort in cohorts:
            cases = select_cases(store, cohort, request.split, request.limit)
            for item in weights:
                taken = [policy for policy in policies if refusal(item, policy, settings) is None]
                asked = [_run(cohort, item, policy, settings, request.structures) for policy in taken]
                runs = [_with_planned_structures(connection, cohort, _as_recorded(store, run)) for run in asked]
                if runs:
                    groups.append(_work_group(store, connection, cohort, runs, cases, retry=request.retry))
    if not groups:
        msg = "nothing to run: " + "; ".join(refused or ["give at least one cohort, weights and prompt policy"])
        raise UsageError(msg)
    return BenchmarkPlan(tuple(groups), tuple(refused))


def record_plan(store: StoreLayout, group: WorkGroup) -> None:
    """Write run files and what is newly planned, before any work begins."""
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


def select_cases(store: StoreLayout, cohort: Cohort, split: str | None, limit: int) -> list[CaseRef]:
    """Cases of a split in order of case_id.

    Raises:
        UsageError: If the cohort has no such split or no case.
    """
    cases = latest_case_refs(store, cohort.name)
    splits = sorted({case.split for case in cases if case.split})
    if split is None:
        split = "test" if "test" in splits else "all"
    if split != "all" and split not in splits:
        msg = f"cohort {cohort.name!r} has no split {split!r}; it has: {', '.join([*splits, 'all'])}"
        raise UsageError(msg)
    chosen = [case for case in cases if split == "all" or case.split == split]
    if not chosen:
        msg = f"cohort {cohort.name!r} has no case; ingest some with: medsam3 ingest SOURCE --cohort {cohort.name}"
        raise UsageError(msg)
    return chosen[:limit] if limit else chosen


def _run(
    cohort: Cohort, weights: Weights, policy: PromptPolicy, settings: InferenceSettings, structures: Sequence[str]
) -> Run:
    chosen = [cohort.recipe.structure(name).name for name in structures]
    names = tuple(item.name for item in cohort.recipe.structures if not chosen or item.name in chosen)
    texts = {item.name: item.text for item in cohort.recipe.structures}
    return Run(weights, cohort.name, policy, policy.prompt_id(texts), settings, names)


def _as_recorded(store: StoreLayout, run: Run) -> Run:
    """The run under the name and version that its rows carry: the same tensors may be registered again as another."""
    path = store.run_json(run.run_id)
    if not path.exists():
        return run
    known = read_json(path)
    return replace(run, weights=replace(run.weights, name=known["weights"], version=known["weights_version"]))


def _with_planned_structures(connection: Connection, cohort: Cohort, run: Run) -> Run:
    """The run with the structures that it was planned for before, too.

    A prediction holds all structures of its run: asking for another structure must not cost the earlier ones.
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


def _state(
    store: StoreLayout, connection: Connection, run: Run, cases: Sequence[CaseRef], *, retry: bool
) -> tuple[dict[str, Pairs], dict[tuple[str, str], Pairs]]:
    """What is fresh, and what only wants new scores."""
    if not store.run_json(run.run_id).exists():
        return {}, {}
    done = fresh_pairs(connection, run, retry=retry)
    whole = {case.case_id for case in cases if wanted_pairs(case, run) <= done.get(case.case_id, NOTHING)}
    return done, predicted_pairs(store, run, whole)


def _prompt_files(prompts: Mapping[str, Mapping[tuple[str, str], str]], case: CaseRef) -> Mapping[str, str]:
    key = (case.case_id, case.case_digest)
    return {prompt_id: index[key] for prompt_id, index in prompts.items() if key in index} or NO_FILES


def wanted_pairs(case: CaseRef, run: Run) -> Pairs:
    """What a run wants of a case: every structure, of every rater or, where it only measures, of none."""
    return _wanted(() if run.measures else case.raters or ("reference",), run.structures)


@cache
def _wanted(raters: tuple[str, ...], structures: tuple[str, ...]) -> Pairs:
    return frozenset((rater, structure) for rater in raters or (None,) for structure in structures)
