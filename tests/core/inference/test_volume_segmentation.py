import threading
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest

from medsam3_core.capabilities import Capabilities
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import CaseDataError, UnsupportedPromptError, UsageError
from medsam3_core.inference.baselines import BASELINES
from medsam3_core.inference.protocol import Segmenter, SliceInstances
from medsam3_core.inference.volumes import VolumeRequest, segment_volumes
from medsam3_core.prompts.prompts import BoxPrompt, SlicePrompt
from medsam3_core.settings.inference import Dtype, InferenceSettings

SHAPE = (5, 8, 8)
GEOMETRY = VolumeGeometry.pixel_grid(SHAPE)


@dataclass
class BrightPixels:
    """Segments pixels above 0; slice z of the loader below holds the grey value z + 1, so z can be read off."""

    device: str = "cpu"
    encoded: list = field(default_factory=list)
    passes: list = field(default_factory=list)

    @property
    def capabilities(self):
        return Capabilities(text=True, box=True)

    def encode(self, images, settings):
        self.passes.append(len(images))
        self.encoded += [(int(image.max()) - 1, settings.resolution, settings.dtype) for image in images]
        return list(images)

    def segment(self, encoding, prompts, settings):
        mask = (encoding[..., 0] > 0)[None]
        scores, boxes = np.array([0.7], dtype=np.float32), np.array([[0, 0, 8, 8]], dtype=np.float32)
        kept = int(settings.threshold < 0.7)
        note = (f"asked:{settings.threshold}",)
        return [SliceInstances(mask[:kept], scores[:kept], boxes[:kept], None, note) for _ in prompts]


@dataclass
class Slices:
    """Loads slices with a square of the grey value z + 1; remembers what was loaded."""

    loaded: list = field(default_factory=list)

    def __call__(self, z, window):
        self.loaded.append((z, window))
        image = np.zeros((*SHAPE[1:], 3), dtype=np.uint8)
        image[2:5, 2:6] = z + 1
        return image


def texts(*slices, structures=("liver",)):
    return {z: [SlicePrompt(structure, text=structure) for structure in structures] for z in slices}


def segment(
    segmenter: Segmenter, slices, prompts, settings=None, structures=("liver", "spleen"), per_pass=None, **more
):
    settings = settings or {run: InferenceSettings() for run in prompts}
    request = VolumeRequest(slices, GEOMETRY, prompts, settings, structures, **more)
    return segment_volumes(segmenter, [request], per_pass=per_pass)[0]


def test_a_slice_is_loaded_and_encoded_once_for_all_runs_and_prompts():
    segmenter, slices = BrightPixels(), Slices()
    prompts = {"a": texts(1, 3, structures=("liver", "spleen")), "b": texts(3), "c": texts(3, 4)}
    settings = {"a": InferenceSettings(), "b": InferenceSettings(threshold=0.9), "c": InferenceSettings(threshold=0.1)}
    segment(segmenter, slices, prompts, settings)
    assert slices.loaded == [(z, "recipe") for z in (1, 3, 4)]
    assert [z for z, _, _ in segmenter.encoded] == [1, 3, 4]


def test_slices_that_nobody_prompts_are_neither_loaded_nor_encoded_and_stay_background():
    segmenter, slices = BrightPixels(), Slices()
    result = segment(segmenter, slices, {"a": {**texts(2), 4: []}, "b": {}})
    assert slices.loaded == [(2, "recipe")]
    assert np.unique(np.nonzero(result["a"].labels("liver"))[0]).tolist() == [2]
    assert result["a"].labels("spleen").sum() == 0
    assert result["b"].labels("liver").sum() == 0


@pytest.mark.parametrize("change", [{"tiles": 2}, {"resolution": 1008}, {"dtype": Dtype.FP32}, {"window": "ct:40,400"}])
def test_settings_that_change_the_encoding_encode_once_each(change):
    segmenter, slices = BrightPixels(), Slices()
    settings = {
        "a": InferenceSettings(),
        "b": InferenceSettings(**change),
        "c": InferenceSettings(threshold=0.1, **change),
    }
    segment(segmenter, slices, {run: texts(0, 1) for run in settings}, settings)
    assert Counter(z for z, _, _ in segmenter.encoded) == {0: 2, 1: 2}


def test_each_window_is_loaded_as_such():
    slices = Slices()
    settings = {"a": InferenceSettings(window="ct:40,400"), "b": InferenceSettings(window="minmax")}
    segment(BrightPixels(), slices, {run: texts(0) for run in settings}, settings)
    assert sorted(slices.loaded) == [(0, "ct:40,400"), (0, "minmax")]


def test_a_structure_with_a_window_of_its_own_is_shown_in_it_unless_the_settings_name_one():
    slices, windows = Slices(), {"lung": "ct:-600,1500"}
    settings = {"a": InferenceSettings(), "b": InferenceSettings(window="minmax")}
    prompts = {run: texts(2, structures=("liver", "lung")) for run in settings}
    result = segment(BrightPixels(), slices, prompts, settings, ("liver", "lung"), windows=windows)
    assert sorted(slices.loaded) == [(2, "ct:-600,1500"), (2, "minmax"), (2, "recipe")]
    assert all((result[run].labels(name)[2] > 0).sum() == 3 * 4 for run in settings for name in ("liver", "lung"))


def test_slices_of_several_volumes_share_the_passes_of_the_encoder():
    segmenter = BrightPixels()
    requests = [
        VolumeRequest(Slices(), GEOMETRY, {"a": texts(*zs)}, {"a": InferenceSettings()}, ("liver",))
        for zs in ((0, 1, 2), (4,), (3,))
    ]
    answers = segment_volumes(segmenter, requests, per_pass=4)
    assert segmenter.passes == [4, 1]
    assert [z for z, _, _ in segmenter.encoded] == [0, 1, 2, 4, 3]
    drawn = [np.unique(np.nonzero(one["a"].labels("liver"))[0]).tolist() for one in answers]
    assert drawn == [[0, 1, 2], [4], [3]]


def test_the_next_slices_are_loaded_while_the_current_ones_are_computed():
    """Loading slice 1 lets the answer to slice 0 go on: without a second thread neither would ever end."""
    second_is_loaded = threading.Event()

    class Waiting(BrightPixels):
        def segment(self, encoding, prompts, settings):
            assert second_is_loaded.wait(30)
            return super().segment(encoding, prompts, settings)

    class Noting(Slices):
        def __call__(self, z, window):
            if z == 1:
                second_is_loaded.set()
            return super().__call__(z, window)

    assert segment(Waiting(), Noting(), {"a": texts(0, 1)})["a"].labels("liver").any()


def test_what_cannot_be_loaded_ends_the_pass_when_its_turn_comes():
    class Damaged(Slices):
        def __call__(self, z, window):
            if z == 3:
                raise CaseDataError("chunk 3 is damaged")
            return super().__call__(z, window)

    segmenter = BrightPixels()
    with pytest.raises(CaseDataError, match="chunk 3 is damaged"):
        segment(segmenter, Damaged(), {"a": texts(1, 2, 3, 4)})
    assert [z for z, _, _ in segmenter.encoded] == [1, 2]


def test_the_network_changes_once_per_resolution_and_not_per_slice():
    segmenter = BrightPixels()
    settings = {
        "a": InferenceSettings(resolution=1008),
        "b": InferenceSettings(resolution=504),
        "c": InferenceSettings(resolution=1008, window="minmax"),
    }
    segment(segmenter, Slices(), {run: texts(0, 1, 2) for run in settings}, settings)
    resolutions = [resolution for _, resolution, _ in segmenter.encoded]
    assert sum(before != after for before, after in pairwise(resolutions)) == 1


@pytest.mark.parametrize(
    ("device", "more", "passes"),
    [
        ("cpu", {}, [1] * 5),
        ("cuda:1", {}, [5]),
        ("cpu", {"per_pass": 2}, [2, 2, 1]),
    ],
)
def test_slices_are_encoded_together_where_that_pays(device, more, passes):
    segmenter = BrightPixels(device)
    result = segment(segmenter, Slices(), {"a": texts(*range(5))}, **more)
    assert segmenter.passes == passes
    assert result["a"].labels("liver")[:, 3, 3].tolist() == [1] * 5


def test_every_run_gets_its_own_settings_and_fallbacks():
    settings = {"low": InferenceSettings(threshold=0.1), "high": InferenceSettings(threshold=0.9)}
    result = segment(BrightPixels(), Slices(), {run: texts(0, 1) for run in settings}, settings)
    assert (result["low"].labels("liver") > 0).sum() == 2 * 3 * 4
    assert (result["high"].labels("liver") > 0).sum() == 0
    assert result["low"].fallbacks == ("asked:0.1",)
    assert result["high"].fallbacks == ("asked:0.9",)
    assert result["low"].confidence("liver") == pytest.approx(0.7)


def test_baselines_go_the_same_way():
    prompts = {"a": {1: [SlicePrompt("liver", boxes=(BoxPrompt(1, 1, 7, 6),))]}}
    box = segment(BASELINES["baseline:box"], Slices(), prompts)["a"].labels("liver")
    otsu = segment(BASELINES["baseline:otsu"], Slices(), prompts)["a"].labels("liver")
    assert (box > 0).sum() == 6 * 5
    assert np.array_equal(otsu[1] > 0, Slices()(1, "recipe")[..., 0] > 0)


def test_boxes_per_instance_become_instances_that_keep_their_number():
    boxes = (BoxPrompt(0, 0, 2, 2), BoxPrompt(5, 5, 8, 8))
    prompts = {"a": {z: [SlicePrompt("liver", boxes=boxes, per_instance=True)] for z in range(3)}}
    labels = segment(BASELINES["baseline:box"], Slices(), prompts)["a"].labels("liver")
    assert labels[:3, 0, 0].tolist() == [1, 1, 1]
    assert labels[:3, 6, 6].tolist() == [2, 2, 2]


def test_a_prompt_that_the_segmenter_cannot_take_is_refused():
    with pytest.raises(UnsupportedPromptError, match="baseline:box takes positive boxes only"):
        segment(BASELINES["baseline:box"], Slices(), {"a": texts(0)})


def test_a_prompt_on_a_slice_that_does_not_exist_is_refused_before_any_work():
    slices = Slices()
    with pytest.raises(UsageError, match=r"run 'a' prompts slice 5, the volume has slices 0\.\.4"):
        segment(BrightPixels(), slices, {"a": texts(0, 5)})
    assert slices.loaded == []


def test_prompts_and_settings_of_different_runs_are_refused():
    with pytest.raises(ValueError, match=r"prompts are for the runs \['a'\], settings for \['b'\]"):
        segment(BrightPixels(), Slices(), {"a": texts(0)}, {"b": InferenceSettings()})


def test_a_structure_prompted_twice_on_a_slice_is_refused():
    with pytest.raises(ValueError, match="slice 0 of 'liver' is added twice"):
        segment(BrightPixels(), Slices(), {"a": texts(0, structures=("liver", "liver"))})
