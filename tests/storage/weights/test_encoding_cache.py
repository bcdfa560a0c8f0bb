"""The cache of encodings: a later benchmark with other prompts runs no encoder, and the size holds."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medsam3_core.errors import UsageError
from medsam3_core.inference.baselines import BASELINES
from medsam3_core.prompts.prompts import SlicePrompt
from medsam3_core.sam3.network.tiny import untrained_weights
from medsam3_core.sam3.segmenter import Sam3Segmenter
from medsam3_core.settings.inference import Dtype, InferenceSettings
from storage.catalog.guard import run_sql
from storage.runs.plan import record_plan
from storage.runs.requests import BenchmarkRequest
from storage.store.layout import StoreLayout
from storage.weights.encodings import (
    CachedSegmenter,
    CacheSettings,
    EncodingCache,
    cached,
    parse_size,
    prepare_cache,
    trim_cache,
)
from tasks.segment import SegmentBatch
from tasks.stream.breadcrumbs import BreadcrumbFolder
from tasks.stream.work import run_batch
from tests.core.sam3.segmenters import count_trunk_passes, phantom
from tests.stores.small import ingest_here, plan_here

FP32 = InferenceSettings(dtype=Dtype.FP32, resolution=112)
ROOMY = 10**9
SLICE = np.zeros((1, 96, 8, 8), np.float32)
SLICE_BYTES = SLICE.nbytes + 128
TEXT = SlicePrompt("liver", text="liver")


@pytest.fixture(scope="module")
def tiny() -> Sam3Segmenter:
    torch.set_num_threads(1)
    return Sam3Segmenter(untrained_weights())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "encodings"


def files(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("??/*.npy")}


def age(folder: Path, key: str, seconds: float) -> None:
    path = folder / key[:2] / f"{key}.npy"
    os.utime(path, (path.stat().st_atime - seconds, path.stat().st_mtime - seconds))


def benchmark(store: StoreLayout, prompt: str, segmenter: object) -> None:
    request = BenchmarkRequest(("ct",), ("tiny-untrained",), (prompt,), ("dtype=fp32", "resolution=112"), "all")
    for group in plan_here(store, request).groups:
        record_plan(store, group)
        work = SegmentBatch(store, group.cohort.recipe, group.runs, lambda: segmenter)
        run_batch(work, f"here-{prompt}", BreadcrumbFolder(store.breadcrumbs() / "b"), group.pending)


# ---- What it saves ----


def test_a_second_benchmark_with_other_prompts_runs_no_encoder_and_changes_no_score(
    store: StoreLayout, tiny: Sam3Segmenter
) -> None:
    ingest_here(store, "phantom:ct,cases=1,size=6x40x48", "ct")
    cache = CacheSettings(store.encodings(), ROOMY)
    passes = count_trunk_passes(tiny, FP32)
    prepare_cache(cache)
    benchmark(store, "text", cached(tiny, "sha", cache))
    assert sum(passes) == 6
    passes.clear()
    prepare_cache(cache)
    benchmark(store, "box:jitter=0.1", cached(tiny, "sha", cache))
    assert passes == []
    benchmark(store, "box", tiny)
    assert passes
    rows = run_sql(store, "SELECT status, count(*) AS n FROM scores GROUP BY status").to_pylist()
    assert [row["status"] for row in rows] == ["scored"]


@pytest.mark.parametrize("change", [{}, {"tiles": 2}, {"dtype": Dtype.MIXED}])
def test_cached_encodings_give_the_same_answers(folder: Path, tiny: Sam3Segmenter, change: dict[str, object]) -> None:
    settings = InferenceSettings(**{"dtype": Dtype.FP32, "resolution": 112, **change})
    segmenter = cached(tiny, "sha", CacheSettings(folder, ROOMY))
    answers = []
    for _ in range(2):
        encoding = segmenter.encode([phantom(1)], settings)[0]
        answers.append(segmenter.segment(encoding, [TEXT], settings)[0])
    assert len(files(folder)) == 1
    np.testing.assert_array_equal(answers[0].masks, answers[1].masks)
    np.testing.assert_array_equal(answers[0].scores, answers[1].scores)


def test_only_the_slices_that_are_missing_are_encoded_and_the_order_is_kept(folder: Path, tiny: Sam3Segmenter) -> None:
    segmenter = cached(tiny, "sha", CacheSettings(folder, ROOMY))
    segmenter.encode([phantom(2)], FP32)
    passes = count_trunk_passes(tiny, FP32)
    mixed = segmenter.encode([phantom(1), phantom(2), phantom(3)], FP32)
    assert sum(passes) == 2
    plain = tiny.encode([phantom(1), phantom(2), phantom(3)], FP32)
    for one, other in zip(mixed, plain, strict=True):
        torch.testing.assert_close(one.trunk, other.trunk)


@pytest.mark.parametrize(
    "other",
    [
        lambda tiny: (tiny, "sha", phantom(2), FP32),
        lambda tiny: (tiny, "other", phantom(1), FP32),
        lambda tiny: (tiny, "sha", phantom(1), InferenceSettings(dtype=Dtype.FP32)),
        lambda tiny: (tiny, "sha", phantom(1), InferenceSettings(dtype=Dtype.MIXED, resolution=112)),
        lambda tiny: (tiny, "sha", phantom(1), InferenceSettings(dtype=Dtype.FP32, resolution=112, tiles=2)),
    ],
)
def test_another_slice_or_other_weights_or_settings_are_other_entries(
    folder: Path, tiny: Sam3Segmenter, other: Callable[..., tuple]
) -> None:
    cached(tiny, "sha", CacheSettings(folder, ROOMY)).encode([phantom(1)], FP32)
    segmenter, sha, image, settings = other(tiny)
    cached(segmenter, sha, CacheSettings(folder, ROOMY)).encode([image], settings)
    assert len(files(folder)) == 2


def test_settings_that_leave_the_encoding_alone_share_an_entry(folder: Path, tiny: Sam3Segmenter) -> None:
    for threshold in (0.3, 0.6):
        settings = InferenceSettings(dtype=Dtype.FP32, resolution=112, threshold=threshold)
        cached(tiny, "sha", CacheSettings(folder, ROOMY)).encode([phantom(1)], settings)
    assert len(files(folder)) == 1


def test_damaged_entries_are_made_again(folder: Path, tiny: Sam3Segmenter) -> None:
    segmenter = cached(tiny, "sha", CacheSettings(folder, ROOMY))
    segmenter.encode([phantom(1)], FP32)
    (path,) = folder.glob("??/*.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    segmenter.encode([phantom(1)], FP32)
    assert path.read_bytes() == whole


def test_an_entry_that_cannot_be_read_at_the_moment_is_kept(folder: Path, tiny: Sam3Segmenter) -> None:
    cache = EncodingCache(CacheSettings(folder, ROOMY))
    assert cache.put("ab", SLICE)
    path = folder / "ab" / "ab.npy"
    aside = path.rename(path.with_suffix(".aside"))
    path.mkdir()  # reading a folder is an OSError
    assert cache.get("ab") is None
    path.rmdir()
    aside.rename(path)
    np.testing.assert_array_equal(cache.get("ab"), SLICE)


def test_what_the_cpu_makes_after_a_move_is_not_kept_as_the_work_of_the_accelerator(folder: Path) -> None:
    class Moved(Sam3Segmenter):
        device = "cuda:0"

        def encode(self, images, settings):  # type: ignore[no-untyped-def]
            made = super().encode(images, settings)
            Moved.device = "cpu"
            return made

    segmenter = cached(Moved(untrained_weights()), "sha", CacheSettings(folder, ROOMY))
    assert len(segmenter.encode([phantom(1)], FP32)) == 1
    assert not files(folder)


def test_baselines_and_no_cache_are_left_alone(folder: Path, tiny: Sam3Segmenter) -> None:
    assert cached(tiny, "sha", None) is tiny
    box = BASELINES["baseline:box"]
    assert cached(box, "sha", CacheSettings(folder, ROOMY)) is box
    assert isinstance(cached(tiny, "sha", CacheSettings(folder, ROOMY)), CachedSegmenter)


# ---- Its size ----


def test_a_full_cache_admits_nothing_more(folder: Path) -> None:
    cache = EncodingCache(CacheSettings(folder, 3 * SLICE_BYTES))
    assert [cache.put(f"{number:064x}", SLICE) for number in range(5)] == [True] * 3 + [False] * 2
    assert cache.get(f"{0:064x}") is not None
    assert cache.get(f"{4:064x}") is None


def test_several_workers_see_what_the_others_have_written(folder: Path) -> None:
    one, other = (EncodingCache(CacheSettings(folder, 3 * SLICE_BYTES)) for _ in range(2))
    kept = [cache.put(f"{number:064x}", SLICE) for number, cache in enumerate((one, other, one, other, one, other))]
    assert sum(kept) == len(files(folder)) <= 4
    trim_cache(CacheSettings(folder, 3 * SLICE_BYTES))
    assert len(files(folder)) == 3


def test_between_benchmarks_a_full_cache_drops_what_the_last_one_did_not_touch(folder: Path) -> None:
    settings = CacheSettings(folder, 2 * SLICE_BYTES)
    prepare_cache(settings)
    cache = EncodingCache(settings)
    used, unused = f"{1:064x}", f"{2:064x}"
    assert cache.put(used, SLICE)
    assert cache.put(unused, SLICE)
    prepare_cache(settings)
    assert files(folder) == {used, unused}  # both were made in the benchmark before
    age(folder, unused, 60)
    age(folder, used, 60)
    cache.get(used)
    prepare_cache(settings)
    assert files(folder) == {used}


def test_a_cache_with_room_drops_nothing(folder: Path) -> None:
    settings = CacheSettings(folder, 10 * SLICE_BYTES)
    EncodingCache(settings).put(f"{1:064x}", SLICE)
    prepare_cache(settings)
    age(folder, f"{1:064x}", 3600)
    prepare_cache(settings)
    assert len(files(folder)) == 1


def test_a_smaller_size_drops_the_longest_unused_first(folder: Path) -> None:
    cache = EncodingCache(CacheSettings(folder, 3 * SLICE_BYTES))
    for number in range(3):
        cache.put(f"{number:064x}", SLICE)
        age(folder, f"{number:064x}", 30 - 10 * number)
    trim_cache(CacheSettings(folder, SLICE_BYTES))
    assert files(folder) == {f"{2:064x}"}


def test_a_disk_that_refuses_costs_no_case(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    cache = EncodingCache(CacheSettings(folder, ROOMY))
    monkeypatch.setattr(np, "save", full)
    assert not cache.put(f"{1:064x}", SLICE)
    assert files(folder) == set()


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 20 * 10**9), ("500 mb", 5 * 10**8), ("1.5T", 15 * 10**11), ("7", 7), ("3kb", 3000)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "0GB", "-1GB", "20 GiBs"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a number with KB, MB, GB or TB"):
        parse_size(text)


def test_followed_volumes_go_through_the_cache_too(folder: Path) -> None:
    from medsam3_core.cases.geometry import VolumeGeometry
    from medsam3_core.inference.protocol import FollowingSegmenter
    from medsam3_core.inference.volumes import VolumeRequest, segment_volumes
    from medsam3_core.prompts.prompts import PointPrompt

    tracking = Sam3Segmenter(untrained_weights(tracker=True))
    segmenter = cached(tracking, "sha", CacheSettings(folder, ROOMY))
    assert isinstance(segmenter, FollowingSegmenter)
    request = VolumeRequest(
        lambda z, _window: phantom(z, (40, 48)),
        VolumeGeometry.pixel_grid((4, 40, 48)),
        {"a": {1: [SlicePrompt("liver", points=((PointPrompt(20, 20),),))]}},
        {"a": FP32},
        ["liver"],
        followed=["a"],
    )
    (first,) = segment_volumes(segmenter, [request])
    passes = count_trunk_passes(tracking, FP32)
    (again,) = segment_volumes(segmenter, [request])
    np.testing.assert_array_equal(again["a"].labels("liver"), first["a"].labels("liver"))
    assert passes == []
