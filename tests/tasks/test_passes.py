"""Cases that share encoder passes: the same scores as one by one, and no case pays for a damaged neighbour."""

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from botocore.exceptions import EndpointConnectionError
from numpy.typing import NDArray

from medsam3_core.inference.protocol import Segmenter
from medsam3_core.sam3.network.tiny import untrained_weights
from medsam3_core.sam3.segmenter import Sam3Segmenter
from medsam3_core.settings.inference import InferenceSettings
from storage.catalog.guard import run_sql
from storage.cohorts.volumes import open_case_volume
from storage.runs.plan import WorkGroup, record_plan
from storage.runs.requests import BenchmarkRequest
from storage.store.layout import StoreLayout, open_store
from storage.weights.registry import load_segmenter
from tasks.agent.slices import SliceReader
from tasks.passes import groups_of, in_passes, one_behind
from tasks.segment import SegmentBatch
from tasks.stream.breadcrumbs import BETWEEN_CASES, Breadcrumb, BreadcrumbFolder
from tasks.stream.work import run_batch
from tests.core.sam3.segmenters import FP32, count_trunk_passes
from tests.stores.small import ingest_here, plan_here

CASES = 5
SCORES = "SELECT case_id, structure, status, reason, dice, confidence FROM scores ORDER BY case_id, structure"
REQUEST = BenchmarkRequest(("fundus",), ("tiny-untrained",), ("box",), ("dtype=fp32",), split="all")


def planned(case_id: str, ndim: int = 2) -> SimpleNamespace:
    return SimpleNamespace(case_id=case_id, case=SimpleNamespace(ndim=ndim))


class Stages:
    """Notes which cases are begun and finished in which threads, and the breadcrumb while a group is in hand."""

    def __init__(self, crumbs: Path) -> None:
        self._crumbs = BreadcrumbFolder(crumbs)
        self.groups: list[list[str]] = []
        self.finished: list[str] = []
        self.threads: set[str] = set()
        self.noted: list[str | None] = []

    def begin(self, one: SimpleNamespace) -> str:
        self.threads.add(threading.current_thread().name.rstrip("_0"))
        return str(one.case_id)

    def finish(self, group: list[str]) -> None:
        self.threads.add(threading.current_thread().name.rstrip("_0"))
        self.finished += group

    def run(self, cases: list[SimpleNamespace], together: int) -> None:
        with (
            Breadcrumb(self._crumbs, "batch") as crumb,
            one_behind(self.finish, threaded=together > 1) as finish,
        ):
            for group in in_passes(cases, together, self.begin, crumb):  # type: ignore[arg-type]
                self.groups.append(group)
                self.noted.append(self._crumbs.read("batch"))
                finish(group)


def test_one_slice_cases_make_groups_and_volumes_stay_alone() -> None:
    cases = [planned(*one) for one in (("a",), ("b",), ("c",), ("v", 3), ("d",), ("w", 3))]
    names = [[one.case_id for one in group] for group in groups_of(cases, 2)]  # type: ignore[arg-type]
    assert names == [["a", "b"], ["c"], ["v"], ["d"], ["w"]]


@pytest.mark.parametrize(("together", "groups"), [(1, [["a"], ["b"], ["c"]]), (2, [["a", "b"], ["c"]])])
def test_all_cases_go_through_all_stages_in_order(tmp_path: Path, together: int, groups: list[list[str]]) -> None:
    stages = Stages(tmp_path)
    stages.run([planned(name) for name in "abc"], together)
    assert stages.groups == groups
    assert stages.finished == list("abc")
    assert stages.threads == ({"MainThread"} if together == 1 else {"one-ahead", "finish-cases"})


@pytest.mark.parametrize(("together", "noted"), [(1, ["a", "b", "v"]), (4, [BETWEEN_CASES, "v"])])
def test_a_group_blames_no_case_for_the_death_of_its_worker(tmp_path: Path, together: int, noted: list[str]) -> None:
    stages = Stages(tmp_path)
    stages.run([planned("a"), planned("b"), planned("v", 3)], together)
    assert stages.noted == noted


def test_an_error_behind_the_caller_is_raised_before_the_next_but_one_group_is_finished(tmp_path: Path) -> None:
    finished = []

    def finish(group: list[str]) -> None:
        if group == ["b"]:
            raise OSError("the disk is full")
        finished.extend(group)

    def finish_all() -> None:
        with one_behind(finish, threaded=True) as later:
            for name in "abcd":
                later([name])

    with pytest.raises(OSError, match="the disk is full"):
        finish_all()
    assert finished == ["a"]


# ---- The whole way, on real cases ----


def benchmarked(folder: Path, per_pass: int) -> tuple[StoreLayout, list[int]]:
    """A store with five fundus phantoms, benchmarked; and the sizes of the encoder's passes."""
    store = open_store(folder)
    ingest_here(store, f"phantom:fundus,cases={CASES},size=1x64x56", "fundus")
    (group,) = plan_here(store, REQUEST).groups
    record_plan(store, group)
    segmenter = Sam3Segmenter(untrained_weights(), images_per_pass=per_pass)
    passes = count_trunk_passes(segmenter, FP32)
    batch(store, group, segmenter, per_pass)
    return store, passes


def batch(store: StoreLayout, group: WorkGroup, segmenter: object, per_pass: int) -> None:
    work = SegmentBatch(store, group.cohort.recipe, group.runs, partial(lambda one: one, segmenter), per_pass=per_pass)
    run_batch(work, "batch", BreadcrumbFolder(store.breadcrumbs() / "groups"), group.pending)


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


class FailsOn:
    """A segmenter that fails when one slice is among those that it encodes; notes how many it is given."""

    def __init__(self, segmenter: Segmenter, bad: NDArray[np.uint8]) -> None:
        self._segmenter, self._bad = segmenter, bad
        self.passes: list[int] = []

    def encode(self, images: Sequence[NDArray[np.uint8]], settings: InferenceSettings) -> list[object]:
        self.passes.append(len(images))
        if any(np.array_equal(image, self._bad) for image in images):
            raise ValueError("bad")
        return self._segmenter.encode(images, settings)

    def __getattr__(self, name: str) -> object:
        return getattr(self._segmenter, name)


@pytest.fixture
def eyes(store: StoreLayout) -> WorkGroup:
    ingest_here(store, f"phantom:fundus,cases={CASES},size=1x48x48", "fundus")
    request = BenchmarkRequest(("fundus",), ("baseline:box",), ("box",), (), "all")
    (group,) = plan_here(store, request).groups
    record_plan(store, group)
    return group


@pytest.mark.parametrize(("together", "passes"), [(1, [1, 1, 1, 1]), (3, [2, 1, 1, 2])])
def test_what_is_wrong_with_a_case_ends_in_its_own_rows_alone(
    store: StoreLayout, eyes: WorkGroup, together: int, passes: list[int]
) -> None:
    files = [store.volume("fundus", planned.case_id, zipped=True) for planned in eyes.pending]
    bad = SliceReader(open_case_volume(files[0]), eyes.cohort.recipe.window)(0, "recipe")
    files[1].write_bytes(b"damaged")
    segmenter = FailsOn(load_segmenter(eyes.weights, "cpu"), bad)
    batch(store, eyes, segmenter, together)
    ends = run_sql(store, "SELECT status, reason FROM outcomes ORDER BY case_id").to_pylist()
    assert [one["status"] for one in ends] == ["failed", "failed", "scored", "scored", "scored"]
    assert ends[0]["reason"] == "ValueError: bad"
    assert files[1].name in ends[1]["reason"]
    assert segmenter.passes == passes


def test_a_lost_connection_to_the_store_is_no_fault_of_a_case(store: StoreLayout, eyes: WorkGroup) -> None:
    class Unconnected(FailsOn):
        def encode(self, images: object, settings: InferenceSettings) -> list[object]:
            raise EndpointConnectionError(endpoint_url="https://objects")

    segmenter = Unconnected(load_segmenter(eyes.weights, "cpu"), np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(EndpointConnectionError):
        batch(store, eyes, segmenter, 1)
