"""Standing benchmarks: a recorded request is planned again whenever one of its inputs has changed.

    runs/<run_id>/requests/<digest>.json

A benchmark depends on weights, cohort, prompts, settings, inference code and protocol. The request is recorded with
each of its runs. A request for `NAME` follows the newest version of these weights, one for `NAME@N` keeps its version;
the plan over all requests is then exactly the stale work.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from medsam3_core.digests import short_digest
from medsam3_core.errors import UsageError
from medsam3_core.prompts.policies import PromptPolicy
from storage.catalog.queries.runs import weights_with_runs
from storage.cohorts.cohorts import latest_cases
from storage.runs.plan import BenchmarkPlan
from storage.runs.requests import BenchmarkRequest, RequestedRuns
from storage.store.atomic import read_json, write_json
from storage.store.layout import StoreLayout
from storage.weights.registry import registered_weights
from storage.weights.weights import Weights


@dataclass(frozen=True, slots=True, order=True)
class StandingBenchmark:
    """One cohort, weights, prompt policy and settings, with the requested cases and structures.

    Attributes:
        cohort: Cohort.
        weights: `NAME` or `NAME@N`, as requested.
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


def record_requests(store: StoreLayout, plan: BenchmarkPlan) -> None:
    """Record with each run of a plan the request that made it."""
    planned = set(plan.run_ids)
    for group in plan.asked:
        for run in group.runs:
            asked = _standing(group, run.policy)
            target = store.requests(run.run_id) / f"{short_digest(asdict(asked))}.json"
            if run.run_id in planned and not target.exists():
                write_json(target, asdict(asked))


def standing_benchmarks(store: StoreLayout) -> list[StandingBenchmark]:
    """Recorded requests, sorted, without duplicates."""
    found = set()
    for path in store.runs().glob("*/requests/[!.]*.json"):
        value = read_json(path)
        lists = {name: tuple(value[name]) for name in ("settings", "structures")}
        found.add(StandingBenchmark(**{**value, **lists}))
    return sorted(found, key=lambda item: (item.cohort, item.weights, item.prompt, str(item)))


def completed_requests(store: StoreLayout, request: BenchmarkRequest) -> list[BenchmarkRequest]:
    """Complete a request without cohorts, weights or prompts from the standing benchmarks.

    Given values select the standing benchmarks that have them. A value that none has (new weights, a new cohort)
    replaces the value of all of them.

    Raises:
        UsageError: If a field is omitted and nothing has been benchmarked yet.
    """
    if request.cohorts and request.weights and request.prompts:
        return [request]
    standing = standing_benchmarks(store)
    if not standing:
        msg = "nothing has been benchmarked yet: give --cohort, --weights and --prompt; later benchmarks may omit them"
        raise UsageError(msg)
    prompts = tuple(PromptPolicy.parse(text).canonical() for text in request.prompts)
    chosen = _narrowed(standing, "weights", request.weights)
    chosen = _narrowed(chosen, "cohort", request.cohorts)
    chosen = _narrowed(chosen, "prompt", prompts)
    own = {name: value for name in ("settings", "split", "structures", "limit") if (value := getattr(request, name))}
    return [replace(item, retry=request.retry) for item in _as_requests(store, [replace(one, **own) for one in chosen])]


def requests_following(store: StoreLayout, name: str) -> list[BenchmarkRequest]:
    """Requests that follow the newest version of these weights; empty if they were never benchmarked."""
    return _as_requests(store, [item for item in standing_benchmarks(store) if item.weights == name])


def previous_version(store: StoreLayout, new: Weights) -> Weights | None:
    """The newest earlier version with other tensors that has a run; None if there is none."""
    ran = weights_with_runs(store)
    earlier = [
        item
        for item in registered_weights(store)
        if item.name == new.name and item.version < new.version and item.sha256 != new.sha256 and item.sha256 in ran
    ]
    return max(earlier, key=lambda item: item.version, default=None)


def only_rescoring(plan: BenchmarkPlan) -> BenchmarkPlan:
    """The part of a plan without inference: stored predictions to score again after a change of protocol."""
    groups = []
    for group in plan.groups:
        pending = tuple(replace(item, run_ids=()) for item in group.pending if item.rescore_ids)
        if pending:
            groups.append(replace(group, pending=pending, rejected=()))
    return BenchmarkPlan(tuple(groups), (), plan.asked)


def _standing(asked: RequestedRuns, policy: PromptPolicy) -> StandingBenchmark:
    request = asked.request
    structures, settings = tuple(sorted(request.structures)), tuple(sorted(request.settings))
    return StandingBenchmark(
        asked.cohort.name, asked.weights, policy.canonical(), settings, request.split, structures, request.limit
    )


def _narrowed(
    standing: list[StandingBenchmark], field: Literal["weights", "cohort", "prompt"], wanted: Sequence[str]
) -> list[StandingBenchmark]:
    def has(item: StandingBenchmark, text: str) -> bool:
        return text == getattr(item, field) or (field == "weights" and text == item.weights.partition("@")[0])

    if not wanted:
        return standing
    found: list[StandingBenchmark] = []
    for text in wanted:
        changed: dict[str, Any] = {field: text}
        found += [item for item in standing if has(item, text)] or [replace(item, **changed) for item in standing]
    return list(dict.fromkeys(found))


def _as_requests(store: StoreLayout, standing: Sequence[StandingBenchmark]) -> list[BenchmarkRequest]:
    """Merge into as few requests as possible: prompts with equal other fields together, no case twice."""
    widest: dict[StandingBenchmark, StandingBenchmark] = {}
    split_of = {name: _split_of_today(store, name) for name in {item.cohort for item in standing if item.split is None}}
    for item in standing:
        known = replace(item, split=item.split or split_of[item.cohort])
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


def _split_of_today(store: StoreLayout, cohort: str) -> str | None:
    """The split that None means for the current cases; None if the cohort is gone, which planning reports."""
    if not store.cohort_json(cohort).exists():
        return None
    return "test" if "test" in set(latest_cases(store, cohort, ["split"])["split"]) else "all"


def _wider(one: StandingBenchmark, other: StandingBenchmark) -> StandingBenchmark:
    """Union of two benchmarks; no structures mean all structures, and limit 0 means no limit."""
    structures = {*one.structures, *other.structures} if one.structures and other.structures else ()
    limit = max(one.limit, other.limit) if one.limit and other.limit else 0
    return replace(one, structures=tuple(sorted(structures)), limit=limit)
