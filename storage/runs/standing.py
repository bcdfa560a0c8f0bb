"""Standing benchmarks: what has been asked for once is asked for again whenever something it depends on has changed.

    runs/<run_id>/requests/<digest>.json

A benchmark depends on weights, cohort, prompts, settings, inference code and protocol. Each run notes the request that
made it. A request for `NAME` follows the newest version of these weights, one for `NAME@N` stays with that version; the
plan over all requests is then exactly what is stale.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from medsam3_core.digests import short_digest
from medsam3_core.errors import UsageError
from medsam3_core.prompts.policies import PromptPolicy
from medsam3_core.settings.inference import InferenceSettings
from storage.catalog.queries.runs import weights_with_runs
from storage.cohorts.cohorts import case_refs, latest_cases
from storage.runs.plan import BenchmarkPlan, BenchmarkRequest, PlannedCase, WorkGroup, plan_benchmark
from storage.store.atomic import read_json, write_json
from storage.store.layout import StoreLayout
from storage.weights.registry import find_weights, registered_weights
from storage.weights.weights import Weights


@dataclass(frozen=True, slots=True, order=True)
class StandingBenchmark:
    """One cohort, weights, prompt policy and settings, with the cases and structures that are asked for.

    Attributes:
        cohort: Cohort.
        weights: `NAME` or `NAME@N`, as it was asked for.
        prompt: Canonical policy.
        settings: Inference settings as `key=value`.
        split: As in `BenchmarkRequest`.
        structures: As in `BenchmarkRequest`.
        limit: As in `BenchmarkRequest`.
    """

    cohort: str
    weights: str
    prompt: str
    settings: tuple[str, ...] = ()
    split: str | None = None
    structures: tuple[str, ...] = ()
    limit: int = 0


def record_requests(store: StoreLayout, plan: BenchmarkPlan, requests: Iterable[BenchmarkRequest]) -> None:
    """Note with each run of a plan which request made it."""
    for asked in {item for request in requests for item in _standing(request)}:
        weights, settings = find_weights(store, asked.weights), InferenceSettings.parse(asked.settings)
        for group in plan.groups:
            for run in group.runs.values():
                same = (run.cohort, run.weights.sha256, run.policy.canonical(), run.settings)
                if same == (asked.cohort, weights.sha256, asked.prompt, settings):
                    target = store.requests(run.run_id) / f"{short_digest(asdict(asked))}.json"
                    if not target.exists():
                        write_json(target, asdict(asked))


def standing_benchmarks(store: StoreLayout) -> list[StandingBenchmark]:
    """What has been asked for, sorted; the same twice stands once."""
    found = set()
    for path in store.runs().glob("*/requests/[!.]*.json"):
        value = read_json(path)
        lists = {name: tuple(value[name]) for name in ("settings", "structures")}
        found.add(StandingBenchmark(**{**value, **lists}))
    return sorted(found, key=lambda item: (item.cohort, item.weights, item.prompt, str(item)))


def completed_requests(store: StoreLayout, request: BenchmarkRequest) -> list[BenchmarkRequest]:
    """Requests for what a request leaves open: cohorts, weights or prompts are taken from the standing benchmarks.

    What is given selects the standing benchmarks that have it. Where none has it (new weights, a new cohort), it takes
    its place in all of them.

    Raises:
        UsageError: If something is left open and nothing has been benchmarked yet.
    """
    if request.cohorts and request.weights and request.prompts:
        return [request]
    standing = standing_benchmarks(store)
    if not standing:
        msg = (
            "nothing has been benchmarked yet: give --cohort, --weights and --prompt, and later ones may leave them out"
        )
        raise UsageError(msg)
    prompts = tuple(PromptPolicy.parse(text).canonical() for text in request.prompts)
    chosen = _narrowed(standing, request.weights, lambda item, text: replace(item, weights=text), _same_weights)
    chosen = _narrowed(chosen, request.cohorts, lambda item, text: replace(item, cohort=text), _same_cohort)
    chosen = _narrowed(chosen, prompts, lambda item, text: replace(item, prompt=text), _same_prompt)
    own = {name: value for name in ("settings", "split", "structures", "limit") if (value := getattr(request, name))}
    return [replace(item, retry=request.retry) for item in _as_requests(store, [replace(one, **own) for one in chosen])]


def requests_following(store: StoreLayout, name: str) -> list[BenchmarkRequest]:
    """Requests that follow the newest version of some weights; empty where nothing was ever asked of them."""
    return _as_requests(store, [item for item in standing_benchmarks(store) if item.weights == name])


def previous_version(store: StoreLayout, new: Weights) -> Weights | None:
    """The newest version before this one, with other tensors, that has a run; None where there is none."""
    ran = weights_with_runs(store)
    earlier = [
        item
        for item in registered_weights(store)
        if item.name == new.name and item.version < new.version and item.sha256 != new.sha256 and item.sha256 in ran
    ]
    return max(earlier, key=lambda item: item.version, default=None)


def plan_requests(store: StoreLayout, requests: Sequence[BenchmarkRequest]) -> BenchmarkPlan:
    """One plan for several requests: one pass over the cases of a cohort serves all runs of the same weights.

    A standing request that cannot be met any more (its cohort or weights are gone) is refused in a sentence; a single
    request fails as `plan_benchmark` does.

    Raises:
        UsageError: If no request can be met.
    """
    if len(requests) == 1:
        return plan_benchmark(store, requests[0])
    plans, refused = [], []
    for request in requests:
        try:
            plans.append(plan_benchmark(store, request))
        except UsageError as error:
            refused.append(str(error))
    if not plans:
        raise UsageError("; ".join(dict.fromkeys(refused)))
    groups: dict[tuple[str, str], WorkGroup] = {}
    for group in (group for plan in plans for group in plan.groups):
        key = (group.cohort.name, group.weights.sha256)
        groups[key] = _merged(groups[key], group) if key in groups else group
    refused += [sentence for plan in plans for sentence in plan.refused]
    return BenchmarkPlan(tuple(groups.values()), tuple(dict.fromkeys(refused)))


def only_rescoring(plan: BenchmarkPlan) -> BenchmarkPlan:
    """What of a plan needs no inference: stored predictions that a changed protocol wants scored again."""
    groups = []
    for group in plan.groups:
        pending = tuple(replace(item, run_ids=()) for item in group.pending if item.rescore_ids)
        if pending:
            groups.append(replace(group, pending=pending, rejected=()))
    return BenchmarkPlan(tuple(groups), ())


def _standing(request: BenchmarkRequest) -> list[StandingBenchmark]:
    structures, settings = tuple(sorted(request.structures)), tuple(sorted(request.settings))
    return [
        StandingBenchmark(
            cohort, weights, PromptPolicy.parse(prompt).canonical(), settings, request.split, structures, request.limit
        )
        for cohort in request.cohorts
        for weights in request.weights
        for prompt in request.prompts
    ]


def _same_weights(item: StandingBenchmark, text: str) -> bool:
    return text in (item.weights, item.weights.partition("@")[0])


def _same_cohort(item: StandingBenchmark, text: str) -> bool:
    return item.cohort == text


def _same_prompt(item: StandingBenchmark, text: str) -> bool:
    return item.prompt == text


def _narrowed(
    standing: Sequence[StandingBenchmark],
    wanted: Sequence[str],
    put: Callable[[StandingBenchmark, str], StandingBenchmark],
    has: Callable[[StandingBenchmark, str], bool],
) -> list[StandingBenchmark]:
    if not wanted:
        return list(standing)
    found: list[StandingBenchmark] = []
    for text in wanted:
        found += [item for item in standing if has(item, text)] or [put(item, text) for item in standing]
    return list(dict.fromkeys(found))


def _as_requests(store: StoreLayout, standing: Sequence[StandingBenchmark]) -> list[BenchmarkRequest]:
    """As few requests as possible: prompts that share all else together, and no case asked for twice."""
    widest: dict[StandingBenchmark, StandingBenchmark] = {}
    for item in standing:
        known = replace(item, split=_resolved_split(store, item))
        key = replace(known, structures=(), limit=0)
        widest[key] = _wider(widest[key], known) if key in widest else known
    prompts: dict[StandingBenchmark, list[str]] = {}
    for item in widest.values():
        prompts.setdefault(replace(item, prompt=""), []).append(item.prompt)
    return [
        BenchmarkRequest(
            (item.cohort,), (item.weights,), tuple(texts), item.settings, item.split, item.structures, item.limit
        )
        for item, texts in prompts.items()
    ]


def _resolved_split(store: StoreLayout, item: StandingBenchmark) -> str | None:
    """The split that None means today; None stays where the cohort is gone, and planning says so."""
    if item.split is not None or not store.cohort_json(item.cohort).exists():
        return item.split
    return "test" if "test" in {case.split for case in case_refs(latest_cases(store, item.cohort))} else "all"


def _wider(one: StandingBenchmark, other: StandingBenchmark) -> StandingBenchmark:
    """Asks for what either asks for; no structures are all structures, and limit 0 is none."""
    structures = {*one.structures, *other.structures} if one.structures and other.structures else ()
    limit = max(one.limit, other.limit) if one.limit and other.limit else 0
    return replace(one, structures=tuple(sorted(structures)), limit=limit)


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
        known = cases.get(item.case_id)
        if known is not None:
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
