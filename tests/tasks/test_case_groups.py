"""Cases that share encoder passes: the same scores as one by one, and nobody pays for a damaged neighbour."""

import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from medsam3_core.sam3.network.tiny import untrained_weights
from medsam3_core.sam3.segmenter import Sam3Segmenter
from storage.catalog.guard import run_sql
from storage.runs.plan import BenchmarkRequest, WorkGroup, plan_benchmark, record_plan
from storage.store.layout import StoreLayout, open_store
from tasks.groups import groups_of, run_groups
from tasks.segment import SegmentBatch
from tasks.stream.breadcrumbs import BETWEEN_CASES, Breadcrumb, BreadcrumbFolder
from tests.core.sam3.segmenters import FP32, count_trunk_passes
from tests.stores.small import ingest_here

CASES = 5
SCORES = "SELECT case_id, structure, status, reason, dice, confidence FROM scores ORDER BY case_id, structure"
REQUEST = BenchmarkRequest(("fundus",), ("tiny-untrained",), ("box",), ("dtype=fp32",), split="all")


def planned(case_id: str, ndim: int = 2) -> SimpleNamespace:
    return SimpleNamespace(case_id=case_id, case=SimpleNamespace(ndim=ndim))


class Stages:
    """Stages that write down what happens; a case called `bad` cannot be segmented, `lost` cannot be read."""

    def __init__(self) -> None:
        self.segmented: list[list[str]] = []
        self.finished: list[tuple[str, str]] = []
        self.threads: set[str] = set()

    def open(self, one: SimpleNamespace) -> str:
        self.threads.add(threading.current_thread().name.rstrip("_0"))
        if one.case_id == "lost":
            raise FileNotFoundError(one.case_id)
        return one.case_id

    def segment(self, works: list[str]) -> None:
        self.segmented.append(list(works))
        if "bad" in works:
            raise ValueError("bad")

    def finish(self, one: SimpleNamespace, work: str | None, error: Exception | None) -> None:
        self.threads.add(threading.current_thread().name.rstrip("_0"))
        self.finished.append((one.case_id, type(error).__name__))


def went_through(tmp_path: Path, names: list[str], together: int) -> Stages:
    stages = Stages()
    with Breadcrumb(BreadcrumbFolder(tmp_path), "batch") as crumb:
        run_groups([planned(name) for name in names], together, stages, crumb)  # type: ignore[list-item]
    return stages


def test_one_slice_cases_make_groups_and_volumes_stand_alone() -> None:
    cases = [planned(*one) for one in (("a",), ("b",), ("c",), ("v", 3), ("d",), ("w", 3))]
    names = [[one.case_id for one in group] for group in groups_of(cases, 2)]  # type: ignore[arg-type]
    assert names == [["a", "b"], ["c"], ["v"], ["d"], ["w"]]


@pytest.mark.parametrize(("together", "passes"), [(1, [["a"], ["b"], ["c"]]), (2, [["a", "b"], ["c"]])])
def test_all_cases_go_through_all_stages_in_order(tmp_path: Path, together: int, passes: list[list[str]]) -> None:
    stages = went_through(tmp_path, ["a", "b", "c"], together)
    assert stages.segmented == passes
    assert stages.finished == [(name, "NoneType") for name in "abc"]
    assert stages.threads == ({"MainThread"} if together == 1 else {"one-ahead", "finish-cases"})


@pytest.mark.parametrize("together", [1, 3])
def test_what_is_wrong_with_a_case_reaches_its_own_end_alone(tmp_path: Path, together: int) -> None:
    stages = went_through(tmp_path, ["a", "bad", "lost", "b"], together)
    ends = [("a", "NoneType"), ("bad", "ValueError"), ("lost", "FileNotFoundError"), ("b", "NoneType")]
    assert stages.finished == ends
    if together == 3:
        assert stages.segmented == [["a", "bad"], ["a"], ["bad"], ["b"]]


def test_a_group_blames_nobody_for_the_death_of_its_worker(tmp_path: Path) -> None:
    seen = []

    class Looking(Stages):
        def segment(self, works: list[str]) -> None:
            seen.append(BreadcrumbFolder(tmp_path).read("batch"))

    with Breadcrumb(BreadcrumbFolder(tmp_path), "batch") as crumb:
        run_groups([planned("a"), planned("b"), planned("v", 3)], 4, Looking(), crumb)  # type: ignore[list-item]
    assert seen == [BETWEEN_CASES, "v"]


# ---- The whole way, on real cases ----


def benchmarked(folder: Path, per_pass: int) -> tuple[StoreLayout, list[int]]:
    """A store with five fundus phantoms, benchmarked; and the sizes of the encoder's passes."""
    store = open_store(folder)
    ingest_here(store, f"phantom:fundus,cases={CASES},size=1x64x56", "fundus")
    (group,) = plan_benchmark(store, REQUEST).groups
    record_plan(store, group)
    segmenter = Sam3Segmenter(untrained_weights(), images_per_pass=per_pass)
    passes = count_trunk_passes(segmenter, FP32)
    batch(store, group, segmenter, per_pass)
    return store, passes


def batch(store: StoreLayout, group: WorkGroup, segmenter: Sam3Segmenter, per_pass: int) -> None:
    work = SegmentBatch(store, group.cohort.recipe, group.runs, partial(lambda one: one, segmenter), per_pass=per_pass)
    work("batch", BreadcrumbFolder(store.breadcrumbs() / "groups"), group.pending)


def test_grouped_cases_get_the_scores_that_they_get_alone(tmp_path: Path) -> None:
    alone, single = benchmarked(tmp_path / "alone", 1)
    grouped, shared = benchmarked(tmp_path / "grouped", 3)
    assert (single, shared) == ([1] * CASES, [3, 2])
    expected, found = (run_sql(store, SCORES).to_pylist() for store in (alone, grouped))
    assert len(found) == len(expected) > CASES
    for one, other in zip(expected, found, strict=True):
        assert one | {"dice": 0, "confidence": 0} == other | {"dice": 0, "confidence": 0}
        assert other["dice"] == pytest.approx(one["dice"], abs=1e-3)
        assert other["confidence"] == pytest.approx(one["confidence"], abs=1e-4)
