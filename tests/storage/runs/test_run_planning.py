import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from medsam3_core.cases.cases import CaseStatus
from medsam3_core.errors import UsageError
from medsam3_core.prompts.rows import PromptRow
from storage.catalog.guard import run_sql
from storage.cohorts.cohorts import case_refs, latest_cases, write_cases
from storage.prompts.tables import read_prompts, write_prompts
from storage.runs.ledger import unscored_rows, write_outcomes
from storage.runs.plan import BenchmarkPlan, WorkGroup, record_plan
from storage.runs.requests import BenchmarkRequest
from storage.sources.layouts.phantom import PhantomSource
from storage.store.layout import StoreLayout, open_store, utc_now
from storage.store.schemas import CASES, PLAN
from storage.store.tables import read_table
from storage.weights.registry import load_segmenter
from tasks.segment import SegmentBatch
from tasks.stream.breadcrumbs import BreadcrumbFolder
from tasks.stream.work import run_batch
from tests.phantom_files import write_phantom_dataset
from tests.stores.small import benchmark_here, ingest_here, plan_here

REQUEST = BenchmarkRequest(("eyes",), ("baseline:box",), ("box",), split="all")
plan_of = partial(replace, REQUEST)


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A store with a cohort, and one where `REQUEST` is done as well."""
    fresh, done = (tmp_path_factory.mktemp(name) / "store" for name in ("fresh", "done"))
    ingest_here(open_store(fresh), "phantom:fundus,cases=4,size=48x48", "eyes")
    shutil.copytree(fresh, done)
    benchmark_here(StoreLayout(done), REQUEST)
    return {"fresh": fresh, "done": done}


@pytest.fixture
def eyes(templates: dict[str, Path], tmp_path: Path) -> StoreLayout:
    return StoreLayout(Path(shutil.copytree(templates["fresh"], tmp_path / "store")))


@pytest.fixture
def done(templates: dict[str, Path], tmp_path: Path) -> StoreLayout:
    return StoreLayout(Path(shutil.copytree(templates["done"], tmp_path / "store")))


def pending(plan: BenchmarkPlan) -> list[str]:
    return [item.case_id for group in plan.groups for item in group.pending]


def fail(store: StoreLayout, case_id: str, status: CaseStatus) -> None:
    """Record a later attempt at a case that did not end well."""
    (group,) = plan_here(store, REQUEST).groups
    (run,) = group.runs.values()
    case = next(case for case in case_refs(latest_cases(store, "eyes")) if case.case_id == case_id)
    scores, outcome = unscored_rows(run, case, f"attempt-{case_id}", status, "planted")
    write_outcomes(store, run.run_id, f"attempt-{case_id}", scores, [outcome])


def touch_case(store: StoreLayout, case_id: str, **values: object) -> None:
    """A newer row of a case, as a changed source gives it."""
    (row,) = [row for row in read_table(store.cases("eyes"), CASES).to_pylist() if row["case_id"] == case_id]
    write_cases(store, "eyes", [row | values | {"ingested_at": utc_now()}])


def test_everything_is_pending_at_first_and_nothing_afterwards(eyes: StoreLayout) -> None:
    assert pending(plan_here(eyes, REQUEST)) == ["fundus_000", "fundus_001", "fundus_002", "fundus_003"]
    benchmark_here(eyes, REQUEST)
    again = plan_here(eyes, REQUEST)
    assert (again.pending, again.groups[0].fresh) == (0, 4)


def test_planning_writes_nothing(eyes: StoreLayout) -> None:
    before = sorted(eyes.root.rglob("*"))
    plan_here(eyes, REQUEST)
    assert sorted(eyes.root.rglob("*")) == before


def test_a_cohort_that_grew_computes_only_its_new_cases(store: StoreLayout, tmp_path: Path) -> None:
    for cases in (2, 3):
        phantoms = PhantomSource.parse(f"phantom:fundus,cases={cases},size=48x48")
        write_phantom_dataset(tmp_path / "source", phantoms, "image-pairs")
        ingest_here(store, str(tmp_path / "source"), "eyes")
        found = pending(benchmark_here(store, REQUEST))
    assert len(latest_cases(store, "eyes")) == len(found) + 2


def test_a_changed_source_computes_only_itself(done: StoreLayout) -> None:
    touch_case(done, "fundus_002", case_digest="changed")
    plan = plan_here(done, REQUEST)
    assert pending(plan) == ["fundus_002"]
    assert plan.groups[0].pending[0].run_ids
    assert not plan.groups[0].pending[0].prompt_files  # prompts of the older image do not count


def test_stored_prompts_are_shared_by_other_weights(done: StoreLayout) -> None:
    plan = plan_here(done, plan_of(weights=("baseline:otsu",)))
    assert len(pending(plan)) == 4
    assert all(item.prompt_files for item in plan.groups[0].pending)


def segmenting(store: StoreLayout, group: WorkGroup) -> SegmentBatch:
    return SegmentBatch(store, group.cohort.recipe, group.runs, partial(load_segmenter, group.weights, "cpu"))


def segment_in_batches(store: StoreLayout, plan: BenchmarkPlan, **batches: slice) -> None:
    """Do a plan batch by batch; the names of the batches are those of their files."""
    (group,) = plan.groups
    record_plan(store, group)
    work = segmenting(store, group)
    for name, part in batches.items():
        run_batch(work, name, BreadcrumbFolder(store.breadcrumbs() / "benchmark"), group.pending[part])


def prompts_of(store: StoreLayout, plan: BenchmarkPlan) -> dict[str, list[PromptRow]]:
    """What the batch of all pending cases reads."""
    (group,) = plan.groups
    (run,) = group.runs.values()
    keys = {(item.case_id, item.case.case_digest): item.prompt_files[run.prompt_id] for item in group.pending}
    return read_prompts(store, run.cohort, run.prompt_id, keys)


def test_prompts_that_two_weights_stored_in_other_batches_are_read_once(eyes: StoreLayout) -> None:
    box, otsu = (plan_here(eyes, plan_of(weights=(name,))) for name in ("baseline:box", "baseline:otsu"))
    segment_in_batches(eyes, box, a=slice(0, 2), d=slice(2, 4))
    once = plan_here(eyes, plan_of(settings=("threshold=0.4",)))
    expected = prompts_of(eyes, once)
    segment_in_batches(eyes, otsu, b=slice(0, 3), c=slice(3, 4))
    third = plan_here(eyes, plan_of(settings=("threshold=0.4",)))
    assert {file for item in third.groups[0].pending for file in item.prompt_files.values()} == {
        "b.parquet", "d.parquet",
    }  # fmt: skip
    assert prompts_of(eyes, third) == expected
    assert all(expected.values())


def test_prompts_of_a_case_as_it_was_are_not_read_beside_those_of_now(eyes: StoreLayout) -> None:
    segment_in_batches(eyes, plan_here(eyes, REQUEST), a=slice(0, 4))
    otsu = plan_of(weights=("baseline:otsu",))
    expected = prompts_of(eyes, plan_here(eyes, otsu))
    touch_case(eyes, "fundus_002", case_digest="changed")
    again = plan_here(eyes, REQUEST).groups[0]
    (run,), (item,) = again.runs.values(), again.pending
    drawn = replace(expected["fundus_001"][0], case_id="fundus_002")
    write_prompts(eyes, run.prompt_id, run.policy, {item.case: [drawn]}, "b")
    assert prompts_of(eyes, plan_here(eyes, otsu)) == expected | {"fundus_002": [drawn]}


def raise_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    """All scores are of an older protocol from now on."""
    for name, module in list(sys.modules.items()):
        if name.startswith("storage.") and hasattr(module, "PROTOCOL_VERSION"):
            monkeypatch.setattr(module, "PROTOCOL_VERSION", "next")


def test_a_changed_protocol_scores_stored_predictions_again_without_inference(
    done: StoreLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    raise_protocol(monkeypatch)
    plan = plan_here(done, REQUEST)
    assert len(pending(plan)) == 4
    assert all(item.rescore_ids and not item.run_ids for item in plan.groups[0].pending)
    benchmark_here(done, REQUEST)
    assert plan_here(done, REQUEST).pending == 0


def test_a_case_that_kills_its_worker_while_it_is_scored_again_ends_as_crashed(
    done: StoreLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    raise_protocol(monkeypatch)
    (group,) = plan_here(done, REQUEST).groups
    record_plan(done, group)
    (poison,) = [item for item in group.pending if item.case_id == "fundus_001"]
    assert not poison.run_ids
    segmenting(done, group).record_crash(poison, "killed its worker 2 times")
    assert pending(plan_here(done, REQUEST)) == ["fundus_000", "fundus_002", "fundus_003"]
    rows = run_sql(done, "SELECT case_id, status, reason FROM failures").to_pylist()
    assert rows == [{"case_id": "fundus_001", "status": "crashed", "reason": "killed its worker 2 times"}]
    benchmark_here(done, plan_of(retry=True))
    assert plan_here(done, plan_of(retry=True)).pending == 0


@pytest.mark.parametrize("status", [CaseStatus.FAILED, CaseStatus.CRASHED, CaseStatus.REJECTED])
def test_cases_that_did_not_end_well_are_tried_again_only_if_asked(done: StoreLayout, status: CaseStatus) -> None:
    fail(done, "fundus_001", status)
    assert pending(plan_here(done, REQUEST)) == []
    assert pending(plan_here(done, plan_of(retry=True))) == ["fundus_001"]
    benchmark_here(done, plan_of(retry=True))
    assert pending(plan_here(done, plan_of(retry=True))) == []


def test_a_failed_case_is_tried_again_when_its_digest_changes(done: StoreLayout) -> None:
    fail(done, "fundus_001", CaseStatus.FAILED)
    touch_case(done, "fundus_001", case_digest="changed")
    assert pending(plan_here(done, REQUEST)) == ["fundus_001"]


def test_cases_that_ingest_rejected_are_set_apart_with_their_runs(eyes: StoreLayout) -> None:
    touch_case(eyes, "fundus_001", status="rejected", reason="truncated")
    (group,) = plan_here(eyes, REQUEST).groups
    assert [(item.case_id, item.case.reason, len(item.run_ids)) for item in group.rejected] == [
        ("fundus_001", "truncated", 1)
    ]
    assert len(group.pending) == 3


def test_the_plan_is_recorded_once_per_case_rater_and_structure(eyes: StoreLayout) -> None:
    for _ in range(2):
        plan = plan_here(eyes, REQUEST)
        record_plan(eyes, plan.groups[0])
    rows = read_table(eyes.plan(plan.run_ids[0]), PLAN)
    assert rows.num_rows == 4 * 2


def test_the_test_split_is_taken_where_there_is_one(eyes: StoreLayout) -> None:
    assert pending(plan_here(eyes, plan_of(split=None))) == ["fundus_003"]
    assert len(pending(plan_here(eyes, plan_of(split="train")))) == 3
    for case_id in ("fundus_000", "fundus_001", "fundus_002", "fundus_003"):
        touch_case(eyes, case_id, split=None)
    assert len(pending(plan_here(eyes, plan_of(split=None)))) == 4


def test_a_limit_takes_the_first_cases_by_name(eyes: StoreLayout) -> None:
    assert pending(plan_here(eyes, plan_of(limit=2))) == ["fundus_000", "fundus_001"]


def test_a_combination_that_no_segmenter_takes_is_named_and_makes_no_run(eyes: StoreLayout) -> None:
    plan = plan_here(eyes, plan_of(prompts=("text", "box")))
    assert plan.refused == ("skipped: baseline:box does not accept text prompts (text:slices=all)",)
    assert len(plan.run_ids) == 1


def test_a_request_that_gives_no_run_at_all_is_an_error(eyes: StoreLayout) -> None:
    with pytest.raises(UsageError, match="nothing to run: baseline:box does not accept text prompts"):
        plan_here(eyes, plan_of(prompts=("text",)))


def test_the_same_name_twice_is_one_run(eyes: StoreLayout) -> None:
    doubled = plan_of(cohorts=("eyes", "eyes"), weights=("baseline:box",) * 2, prompts=("box", "box"))
    assert len(plan_here(eyes, doubled).run_ids) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cohorts": ("ears",)}, "unknown cohort 'ears'; known: eyes"),
        ({"weights": ("sam9",)}, "unknown weights 'sam9'; known: baseline:box, baseline:otsu, tiny-"),
        ({"prompts": ("bax",)}, "unknown prompt policy 'bax'; the kinds are: text, box"),
        ({"settings": ("limit=1",)}, "unknown setting 'limit=1'; write key=value with one of: mode"),
        ({"structures": ("iris",)}, "unknown structure 'iris' in recipe 'phantom-fundus'; it has: vessel, optic_disc"),
        ({"split": "dev"}, "cohort 'eyes' has no split 'dev'; it has: test, train, all"),
    ],
)
def test_unknown_names_list_what_exists(eyes: StoreLayout, change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_here(eyes, replace(REQUEST, **change))
