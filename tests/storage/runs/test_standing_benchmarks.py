import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flows.cli.work.benchmark import plan_lines
from flows.messages.formatting import format_duration
from medsam3_core.capabilities import Capabilities
from medsam3_core.errors import UsageError
from storage.comparisons.comparison import ComparisonRequest, compare_weights
from storage.runs.estimates import estimate_plan, total_seconds
from storage.runs.plan import BenchmarkPlan, record_plan
from storage.runs.requests import BenchmarkRequest
from storage.runs.standing import (
    StandingBenchmark,
    completed_requests,
    only_rescoring,
    record_requests,
    standing_benchmarks,
)
from storage.store.atomic import write_json
from storage.store.layout import StoreLayout, open_store
from storage.weights.weights import Weights
from tests.command_line import Medsam3, command_line
from tests.stores.small import benchmark_here, ingest_here, plan_here

EVERYTHING = BenchmarkRequest((), (), ())
ASKED = BenchmarkRequest(("eyes",), ("baseline:box",), ("box", "box:jitter=0.1"), split="all")


def benchmark(store: StoreLayout, request: BenchmarkRequest) -> None:
    """As the flow does: plan, compute, note who asked."""
    requests = completed_requests(store, request)
    for one in requests:
        benchmark_here(store, one)
    record_requests(store, plan_here(store, *requests))


def plan_of_everything(store: StoreLayout, request: BenchmarkRequest = EVERYTHING) -> BenchmarkPlan:
    return plan_here(store, *completed_requests(store, request))


def segmented(plan: BenchmarkPlan) -> dict[str, int]:
    """Cases to segment per run."""
    return {
        run_id: sum(run_id in item.run_ids for item in group.pending) for group in plan.groups for run_id in group.runs
    }


def register(store: StoreLayout, *versions: tuple[str, int, str]) -> None:
    """Weights in the registry without a file: planning does not look at it."""
    takes = Capabilities(text=False, box=True, interactive=False)
    known = [Weights(name, version, sha * 64, "/nowhere", "bare", takes) for name, version, sha in versions]
    write_json(store.registry_json(), {"weights": [asdict(item) for item in known]})


@pytest.fixture(scope="module")
def benchmarked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = open_store(tmp_path_factory.mktemp("standing") / "store")
    ingest_here(store, "phantom:fundus,cases=8,size=48x48", "eyes")
    benchmark(store, ASKED)
    return store.root


@pytest.fixture
def done(benchmarked: Path, tmp_path: Path) -> StoreLayout:
    return StoreLayout(Path(shutil.copytree(benchmarked, tmp_path / "store")))


@pytest.fixture
def medsam3(done: StoreLayout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Medsam3:
    return command_line(done.root, monkeypatch, capsys)


def test_what_was_asked_for_once_is_asked_for_again_without_naming_it(done: StoreLayout) -> None:
    assert [item.prompt.partition(",")[0] for item in standing_benchmarks(done)] == ["box:jitter=0", "box:jitter=0.1"]
    plan = plan_of_everything(done)
    assert (len(plan.run_ids), plan.pending, plan.groups[0].fresh) == (2, 0, 16)


def test_before_the_first_benchmark_nothing_can_be_left_out(store: StoreLayout) -> None:
    with pytest.raises(UsageError, match="nothing has been benchmarked yet: give --cohort, --weights and --prompt"):
        plan_of_everything(store)


def test_a_cohort_that_grows_from_40_to_48_computes_8_cases_per_run(store: StoreLayout) -> None:
    ingest_here(store, "phantom:fundus,cases=40,size=48x48", "eyes")
    benchmark(store, ASKED)
    ingest_here(store, "phantom:fundus,cases=48,size=48x48", "eyes")
    plan = plan_of_everything(store)
    assert list(segmented(plan).values()) == [8, 8]
    assert sum(group.fresh for group in plan.groups) == 80
    benchmark(store, EVERYTHING)
    assert plan_of_everything(store).pending == 0


def test_a_new_version_makes_the_runs_of_its_weights_stale_and_no_other(done: StoreLayout) -> None:
    register(done, ("mine", 1, "a"))
    mine = replace(ASKED, weights=("mine",), prompts=("box",), limit=3)
    for request in (mine, replace(mine, weights=("mine@1",))):
        plan = plan_here(done, request)
        record_plan(done, plan.groups[0])
        record_requests(done, plan)
    register(done, ("mine", 1, "a"), ("mine", 2, "b"))
    found = {
        (group.weights.name, group.weights.version): len(group.pending) for group in plan_of_everything(done).groups
    }
    assert found == {("baseline:box", 1): 0, ("mine", 2): 3, ("mine", 1): 3}  # `mine@1` stays, `mine` follows
    only = plan_of_everything(done, replace(EVERYTHING, weights=("mine@2",)))
    assert [(group.weights.version, len(group.pending)) for group in only.groups] == [(2, 8)]


def test_new_weights_and_new_cohorts_take_the_place_of_the_known_ones(done: StoreLayout) -> None:
    asked = completed_requests(done, replace(EVERYTHING, weights=("baseline:otsu",)))
    assert [(item.cohorts, item.weights, len(item.prompts), item.split) for item in asked] == [
        (("eyes",), ("baseline:otsu",), 2, "all")
    ]
    asked = completed_requests(done, replace(EVERYTHING, cohorts=("ears",), prompts=("box",)))
    assert [(item.cohorts, item.weights, len(item.prompts)) for item in asked] == [(("ears",), ("baseline:box",), 1)]


def test_no_case_is_planned_twice_for_a_run_that_was_asked_for_in_two_ways(done: StoreLayout) -> None:
    more = [replace(ASKED, split=None), replace(ASKED, limit=2, structures=("vessel",))]
    record_requests(done, plan_here(done, *more))
    assert len(standing_benchmarks(done)) == 6
    widest = completed_requests(done, EVERYTHING)
    assert sorted((item.split, item.limit, item.structures) for item in widest) == [("all", 0, ()), ("test", 0, ())]


def test_what_cannot_be_met_any_more_is_said_and_the_rest_is_planned(done: StoreLayout) -> None:
    gone = StandingBenchmark("gone", "baseline:box", "box:jitter=0,per=auto,slices=all")
    run_id = plan_here(done, ASKED).run_ids[0]
    write_json(done.requests(run_id) / "gone.json", asdict(gone))
    plan = plan_of_everything(done)
    assert len(plan.run_ids) == 2
    assert plan.refused[0].startswith("unknown cohort 'gone'; known: eyes")


def test_only_rescoring_takes_inference_out_of_a_plan(done: StoreLayout) -> None:
    plan = plan_here(done, replace(ASKED, weights=("baseline:otsu",)))
    assert plan.pending == 8
    assert only_rescoring(plan).pending == 0


def test_tensors_that_come_back_are_the_runs_that_they_were(done: StoreLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    box = plan_here(done, ASKED).groups[0].weights.sha256
    otsu = replace(ASKED, weights=("baseline:otsu",))
    benchmark(done, otsu)
    takes = Capabilities(text=False, box=True, interactive=False)
    shas = {1: box, 2: plan_here(done, otsu).groups[0].weights.sha256, 3: box}
    known = [Weights("mine", version, sha, "/nowhere", "bare", takes) for version, sha in shas.items()]
    write_json(done.registry_json(), {"weights": [asdict(item) for item in known]})
    assert plan_here(done, replace(ASKED, weights=("mine",))).pending == 0
    compared = compare_weights(done, ComparisonRequest("mine@2", "mine", ("eyes",)))
    again = compare_weights(done, ComparisonRequest("baseline:otsu", "baseline:box", ("eyes",)))
    assert compared.structures == again.structures


def test_the_estimate_is_the_share_of_past_passes(done: StoreLayout) -> None:
    register(done, ("mine", 1, "a"))
    plan = plan_here(done, ASKED, replace(ASKED, weights=("mine",)))
    estimates = estimate_plan(done, plan)
    assert [estimates[run_id].seconds for run_id in plan.run_ids] == [0, 0, None, None]
    assert total_seconds(estimates) is None
    ingest_here(done, "phantom:fundus,cases=4,size=48x48", "others")
    plan = plan_here(done, replace(ASKED, cohorts=("others",)))
    known = estimate_plan(done, plan)
    assert [known[run_id].cases for run_id in plan.run_ids] == [16, 16]
    assert 0 < (total_seconds(known) or 0) < 60
    assert "segment 4, score again 0, rejected 0; about" in plan_lines(plan, known)[0]


@pytest.mark.parametrize(("seconds", "said"), [(3.21, "3.2 s"), (120, "2 min"), (3 * 3600, "3.0 h")])
def test_durations_are_said_shortly(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said


def test_the_command_plans_everything_and_computes_nothing_when_all_is_fresh(
    medsam3: Medsam3, done: StoreLayout
) -> None:
    said = medsam3("benchmark", "--plan").out.splitlines()
    assert said[-1] == "nothing to compute: 0 results are stale, 16 are up to date"
    assert len(said) == 3
    said = medsam3("benchmark", "--weights", "baseline:otsu", "--plan").out.splitlines()
    assert said[-1].startswith("16 results are stale, 0 are up to date; the time is unknown")
    assert "nothing to compute: 16 results are up to date" in medsam3("benchmark").err
