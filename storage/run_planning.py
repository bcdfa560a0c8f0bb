"""From a request to runs, and from a run to the cases that are still to do."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from duckdb import DuckDBPyConnection

from medsam3_core.agent.agent_settings import AgentSettings
from medsam3_core.cases import CaseStatus
from medsam3_core.errors import UsageError
from medsam3_core.inference_settings import InferenceSettings, Merge, PromptMode
from medsam3_core.prompt_policies import PromptedSlices, PromptKind, PromptPolicy
from storage.atomic_write import read_json
from storage.catalog import connect
from storage.cohorts import CaseRef, Cohort, case_refs, latest_cases, read_cohort
from storage.parquet_tables import read_table
from storage.prompt_tables import index_prompts
from storage.run_ledger import Run, write_plan, write_run
from storage.store_layout import StoreLayout
from storage.table_schemas import OUTCOMES, SCORES
from storage.weights import Weights
from storage.weights_registry import find_weights, registered_weights


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
    prompt_files: Mapping[str, str] = field(default_factory=dict)

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
        sentence + _remedy(store, item, policy, settings)
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
        for run in group.runs.values():
            write_run(store, run)
            known = set(
                connection.execute(
                    "SELECT case_id, rater, structure FROM plan WHERE run_id = ?", [run.run_id]
                ).fetchall()
            )
            wanted = [
                row
                for planned in (*group.pending, *group.rejected)
                if run.run_id in (*planned.run_ids, *planned.rescore_ids)
                for row in _plan_rows(planned.case, run)
                if row not in known
            ]
            if wanted:
                write_plan(store, run, wanted)


def select_cases(store: StoreLayout, cohort: Cohort, split: str | None, limit: int) -> list[CaseRef]:
    """Cases of a split in order of case_id.

    Raises:
        UsageError: If the cohort has no such split or no case.
    """
    cases = case_refs(latest_cases(store, cohort.name))
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


def _with_planned_structures(connection: DuckDBPyConnection, cohort: Cohort, run: Run) -> Run:
    """The run with the structures that it was planned for before, too.

    A prediction holds all structures of its run: asking for another structure must not cost the earlier ones.
    """
    rows = connection.execute("SELECT DISTINCT structure FROM plan WHERE run_id = ?", [run.run_id]).fetchall()
    wanted = {*run.structures, *(row[0] for row in rows)}
    return replace(run, structures=tuple(item.name for item in cohort.recipe.structures if item.name in wanted))


def refusal(weights: Weights, policy: PromptPolicy, settings: InferenceSettings) -> str | None:
    """One sentence where these weights cannot be asked like this; None where they can."""
    missing = [*policy.lacking(weights.capabilities), *_unfit_settings(weights, policy, settings)]
    return f"{weights.name} takes no {' or '.join(missing)}: no run for {policy.canonical()}" if missing else None


def _remedy(store: StoreLayout, weights: Weights, policy: PromptPolicy, settings: InferenceSettings) -> str:
    """Which weights would take points, masks and interactive boxes, where these lack the head for them."""
    clicked = settings.mode is PromptMode.INTERACTIVE or "interactive" in policy.needs
    if not clicked or weights.capabilities.interactive:
        return ""
    able = [item for item in registered_weights(store) if refusal(item, policy, settings) is None]
    if not able:
        return "; the released sam3.pt has the head for it, add it with: medsam3 weights add sam3 PATH"
    return f"; registered weights that have the head for it: {', '.join(f'{one.name}@{one.version}' for one in able)}"


def _unfit_settings(weights: Weights, policy: PromptPolicy, settings: InferenceSettings) -> Iterator[str]:
    """Settings that these weights would ignore or choke on under this policy, as people wrote them."""
    can = weights.capabilities
    clicked = settings.mode is PromptMode.INTERACTIVE or "interactive" in policy.needs
    if settings.mode is PromptMode.INTERACTIVE:
        if not can.interactive:
            yield "mode=interactive"
        elif "text" in policy.needs:
            yield "text with mode=interactive"
    if settings.merge is Merge.SEMANTIC and (not can.text or clicked):
        yield "merge=semantic" if not can.text else "merge=semantic with interactive prompts"
    if settings.tiles > 1:
        if not can.text:
            yield f"tiles={settings.tiles}"
        elif can.propagation and policy.slices is PromptedSlices.KEY:
            yield f"tiles={settings.tiles} with slices=key"
    if policy.kind is not PromptKind.AGENT and settings.agent != AgentSettings():
        yield "setting of the agent"
    if settings.resolution and not _takes_resolution(weights, settings.resolution):
        taken = f" (only {', '.join(map(str, weights.resolutions))})" if weights.resolutions else ""
        yield f"resolution={settings.resolution}{taken}"


def _takes_resolution(weights: Weights, resolution: int) -> bool:
    """Whether weights take an input side; those registered before anybody looked are given the benefit of the doubt."""
    if weights.resolutions:
        return resolution in weights.resolutions
    return weights.path is not None


def _work_group(
    store: StoreLayout,
    connection: DuckDBPyConnection,
    cohort: Cohort,
    runs: Sequence[Run],
    cases: Sequence[CaseRef],
    *,
    retry: bool,
) -> WorkGroup:
    todo: dict[str, list[str]] = defaultdict(list)
    rescore: dict[str, list[str]] = defaultdict(list)
    fresh = 0
    for run in runs:
        started = store.run_json(run.run_id).exists()
        done = _fresh_scores(connection, run, retry=retry) if started else {}
        predicted = _stored_predictions(store, run) if started else {}
        for case in cases:
            wanted = {(rater, structure) for _, rater, structure in _plan_rows(case, run)}
            if wanted <= done.get(case.case_id, set()):
                fresh += 1
            elif wanted <= predicted.get((case.case_id, case.case_digest), set()):
                rescore[case.case_id].append(run.run_id)
            else:
                todo[case.case_id].append(run.run_id)
    prompt_index = {run.prompt_id: index_prompts(store, cohort.name, run.prompt_id) for run in runs}
    planned = [
        PlannedCase(
            case,
            tuple(todo.get(case.case_id, ())),
            tuple(rescore.get(case.case_id, ())),
            {
                prompt_id: index[case.case_id, case.case_digest]
                for prompt_id, index in prompt_index.items()
                if (case.case_id, case.case_digest) in index
            },
        )
        for case in cases
        if case.case_id in todo or case.case_id in rescore
    ]
    usable = tuple(item for item in planned if item.case.status is CaseStatus.ACCEPTED)
    rejected = tuple(item for item in planned if item.case.status is not CaseStatus.ACCEPTED)
    return WorkGroup(cohort, runs[0].weights, {run.run_id: run for run in runs}, usable, rejected, fresh)


def _fresh_scores(connection: DuckDBPyConnection, run: Run, *, retry: bool) -> dict[str, set[tuple[str, str]]]:
    """Fresh (rater, structure) per case; with `retry` only those that have a score."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    rows = connection.execute(
        "SELECT case_id, rater, structure, status FROM scores WHERE run_id = ?", [run.run_id]
    ).fetchall()
    for case_id, rater, structure, status in rows:
        if status == CaseStatus.SCORED or not retry:
            found[case_id].add((rater, structure))
    return found


def _stored_predictions(store: StoreLayout, run: Run) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """(case_id, case_digest) to the (rater, structure) that the newest attempt scored, under whatever protocol."""
    outcomes = read_table(store.outcomes(run.run_id), OUTCOMES, columns=["case_id", "attempt", "status", "finished_at"])
    newest = outcomes.sort_by([("finished_at", "ascending"), ("attempt", "ascending")])
    attempts = dict(zip(newest["case_id"].to_pylist(), newest["attempt"].to_pylist(), strict=True))
    columns = ["case_id", "case_digest", "attempt", "rater", "structure", "status"]
    found: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for row in read_table(store.scores(run.run_id), SCORES, columns=columns).to_pylist():
        if row["status"] == CaseStatus.SCORED and attempts.get(row["case_id"]) == row["attempt"]:
            found[row["case_id"], row["case_digest"]].add((row["rater"], row["structure"]))
    return found


def _plan_rows(case: CaseRef, run: Run) -> list[tuple[str, str | None, str]]:
    if run.measures:
        return [(case.case_id, None, structure) for structure in run.structures]
    return [(case.case_id, rater, structure) for rater in case.raters or ("reference",) for structure in run.structures]
