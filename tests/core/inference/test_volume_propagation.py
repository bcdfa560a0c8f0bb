"""`slices=key`: what is drawn on one slice is followed through the volume, with a tracker or by detection."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from medsam3_core.capabilities import Capabilities
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import UnsupportedPromptError, UsageError
from medsam3_core.inference.baselines import BASELINES
from medsam3_core.inference.propagation import KEY_SLICE_ALONE, LINKED_BY_OVERLAP
from medsam3_core.inference.protocol import SliceInstances
from medsam3_core.inference.volumes import VolumeRequest, segment_volumes
from medsam3_core.prompts.prompts import BoxPrompt, MaskPrompt, PointPrompt, SlicePrompt
from medsam3_core.sam3.network.tiny import untrained_weights
from medsam3_core.sam3.segmenter import Sam3Segmenter
from medsam3_core.settings.inference import Dtype, InferenceSettings, Merge, PromptMode
from tests.core.sam3.segmenters import count_trunk_passes, phantom

FP32 = InferenceSettings(dtype=Dtype.FP32, resolution=112)
CLICKED = InferenceSettings(dtype=Dtype.FP32, resolution=112, mode=PromptMode.INTERACTIVE)
BOX = SlicePrompt("liver", boxes=(BoxPrompt(10, 10, 30, 30),))
SPLEEN = SlicePrompt("spleen", boxes=(BoxPrompt(20, 10, 40, 30),))


@pytest.fixture(scope="module")
def tracking():
    torch.set_num_threads(1)
    return Sam3Segmenter(untrained_weights(tracker=True))


def follow(segmenter, prompts, settings=FP32, depth=6, structures=("liver", "spleen"), followed=("a",), shape=(40, 48)):
    runs = prompts if "a" in prompts else {"a": prompts}
    settings = settings if isinstance(settings, dict) else dict.fromkeys(runs, settings)
    geometry = VolumeGeometry.pixel_grid((depth, *shape))
    request = VolumeRequest(
        lambda z, _window: phantom(z, shape), geometry, runs, settings, structures, followed=followed
    )
    return segment_volumes(segmenter, [request])[0]


# ---- With a tracker ----


@pytest.mark.parametrize("settings", [FP32, CLICKED])
def test_the_tracker_follows_a_box_to_both_sides_and_encodes_each_slice_once(tracking, settings):
    passes = count_trunk_passes(tracking, settings)
    result = follow(tracking, {2: [BOX]}, settings)["a"]
    held = result.labels("liver").any(axis=(1, 2))
    assert held[2]
    assert held[:2].any()
    assert held[3:].any()
    assert sum(passes) == 6
    assert result.fallbacks == ()


@pytest.mark.parametrize(("dtype", "mode"), [(Dtype.MIXED, PromptMode.INTERACTIVE), (Dtype.BF16, PromptMode.CONCEPT)])
def test_the_tracker_follows_in_reduced_precision_nearly_as_in_fp32(tracking, dtype, mode):
    """The encoder gives bf16 and the tracker counts pixels in fp32: every cast between them is met on this way."""
    exact, reduced = (
        follow(tracking, {1: [BOX]}, InferenceSettings(dtype=one, resolution=112, mode=mode), 3)["a"].labels("liver")
        > 0
        for one in (Dtype.FP32, dtype)
    )
    assert reduced.any(axis=(1, 2)).all()
    assert (exact != reduced).mean() < 0.1


def test_a_followed_object_keeps_its_number(tracking):
    labels = follow(tracking, {2: [SlicePrompt("liver", points=((PointPrompt(20, 20),),))]}, CLICKED)["a"].labels(
        "liver"
    )
    assert np.unique(labels).tolist() == [0, 1]


def test_the_key_slice_shows_what_is_drawn_without_following(tracking):
    alone = follow(tracking, {2: [BOX]}, followed=())["a"].labels("liver")
    followed = follow(tracking, {2: [BOX]})["a"].labels("liver")
    assert (alone[2] > 0).any()
    np.testing.assert_array_equal(alone[2] > 0, followed[2] > 0)
    assert not alone[[0, 1, 3, 4, 5]].any()


def test_slices_between_two_key_slices_are_not_encoded_again(tracking):
    passes = count_trunk_passes(tracking, FP32)
    follow(tracking, {1: [BOX], 4: [SPLEEN]})
    assert sum(passes) == 6


def test_runs_that_prompt_every_slice_share_the_encodings_of_one_that_follows(tracking):
    passes = count_trunk_passes(tracking, FP32)
    every = {z: [SlicePrompt("liver", text="liver")] for z in range(6)}
    together = follow(tracking, {"a": {2: [BOX]}, "b": every})
    assert sum(passes) == 6
    alone = follow(tracking, {"a": {}, "b": every}, followed=())["b"]
    np.testing.assert_array_equal(together["b"].labels("liver"), alone.labels("liver"))


def test_tiles_do_not_go_with_a_tracker(tracking):
    with pytest.raises(UsageError, match="whole slices, not through tiles=2; use tiles=1"):
        follow(tracking, {2: [BOX]}, InferenceSettings(dtype=Dtype.FP32, resolution=112, tiles=2))


def test_a_structure_with_two_key_slices_is_refused(tracking):
    with pytest.raises(UsageError, match="prompts 'liver' on the slices 1 and 3; objects are followed from one"):
        follow(tracking, {1: [BOX], 3: [BOX]})


def test_a_drawn_mask_with_clicks_is_not_followed_without_them(tracking):
    mask = np.zeros((40, 48), dtype=bool)
    mask[10:20, 10:20] = True
    both = SlicePrompt("liver", masks=(MaskPrompt(mask),), points=((PointPrompt(12, 12),),))
    with pytest.raises(UsageError, match="'liver' combines a drawn mask with points or boxes"):
        follow(tracking, {1: [both]}, CLICKED)


def test_more_points_than_the_tracker_takes_are_reported(tracking):
    """As the official code does, the first and the last eight are kept; that is not silent."""
    many = tuple(PointPrompt(10 + x % 10, 10 + x // 10) for x in range(20))
    result = follow(tracking, {1: [SlicePrompt("liver", points=(many,))]}, CLICKED, depth=2)["a"]
    assert result.fallbacks == ("points-capped:liver:20>16",)


def test_a_single_slice_is_just_answered(tracking):
    result = follow(tracking, {0: [BOX]}, depth=1)["a"]
    assert result.fallbacks == ()
    assert result.labels("liver").any()


# ---- Without ----


class Discs:
    """Finds a disc that moves by a pixel per slice and ends on slice 4, and another one that never moves."""

    device = "cpu"
    capabilities = Capabilities(text=True, box=True)

    def __init__(self):
        self.encoded = Counter()
        self.asked = []

    def encode(self, images, settings):
        for image in images:
            self.encoded[int(image[0, 0, 0])] += 1
        return [int(image[0, 0, 0]) for image in images]

    def segment(self, encoding, prompts, settings):
        self.asked += [(encoding, prompt) for prompt in prompts]
        masks = np.zeros((2, 20, 40), dtype=bool)
        masks[0, 5:10, 5 + encoding : 10 + encoding] = encoding <= 4
        masks[1, 12:18, 30:36] = True
        drawn = masks.any(axis=(1, 2))
        boxes = np.array([[5 + encoding, 5, 10 + encoding, 10], [30, 12, 36, 18]], dtype=np.float32)
        scores = np.array([0.7, 0.9], dtype=np.float32)
        return [SliceInstances(masks[drawn], scores[drawn], boxes[drawn]) for _ in prompts]


def numbered(z, _window):
    return np.full((20, 40, 3), z, dtype=np.uint8)


def detect(segmenter, prompts, depth=8, followed=("a",)):
    geometry = VolumeGeometry.pixel_grid((depth, 20, 40))
    request = VolumeRequest(
        numbered, geometry, {"a": prompts}, {"a": InferenceSettings()}, ["liver"], followed=followed
    )
    return segment_volumes(segmenter, [request])[0]["a"]


def test_without_tracker_detections_are_linked_by_overlap_and_the_result_says_so():
    segmenter = Discs()
    result = detect(segmenter, {2: [SlicePrompt("liver", boxes=(BoxPrompt(7, 5, 12, 10),))]})
    assert result.fallbacks == (LINKED_BY_OVERLAP,)
    labels = result.labels("liver")
    assert labels.any(axis=(1, 2)).tolist() == [True] * 5 + [False] * 3
    assert np.unique(labels).tolist() == [0, 1]
    assert all(labels[z, 7, 7 + z] == 1 for z in range(5))
    assert not labels[:, 12:].any()  # the other disc was never drawn on the key slice
    assert max(segmenter.encoded.values()) == 1


def test_without_tracker_the_box_of_the_slice_before_is_asked_and_a_text_stays_a_text():
    segmenter = Discs()
    detect(segmenter, {2: [SlicePrompt("liver", boxes=(BoxPrompt(7, 5, 12, 10),))]})
    asked = {z: prompt.boxes[0] for z, prompt in segmenter.asked}
    assert (asked[3].x0, asked[4].x0) == (7, 8)
    segmenter = Discs()
    result = detect(segmenter, {2: [SlicePrompt("liver", text="disc")]})
    assert all(prompt.text == "disc" and not prompt.boxes for _, prompt in segmenter.asked)
    assert (result.labels("liver")[7] > 0).sum() == 36
    assert result.labels("liver").max() == 2


def test_without_tracker_a_slice_is_encoded_once_for_all_structures():
    segmenter = Discs()
    prompts = {2: [SlicePrompt(name, text=name) for name in ("liver", "spleen", "kidney")]}
    geometry = VolumeGeometry.pixel_grid((8, 20, 40))
    names = ["liver", "spleen", "kidney"]
    request = VolumeRequest(numbered, geometry, {"a": prompts}, {"a": InferenceSettings()}, names, followed=("a",))
    segment_volumes(segmenter, [request])
    assert segmenter.encoded == Counter(range(8))


def test_a_baseline_draws_the_key_slice_alone_and_says_so():
    result = detect(BASELINES["baseline:box"], {2: [SlicePrompt("liver", boxes=(BoxPrompt(7, 5, 12, 10),))]})
    assert result.fallbacks == (KEY_SLICE_ALONE,)
    assert result.labels("liver").any(axis=(1, 2)).tolist() == [z == 2 for z in range(8)]


def test_points_without_tracker_are_refused_and_not_dropped():
    segmenter = Sam3Segmenter(untrained_weights())
    with pytest.raises(UnsupportedPromptError, match="no interactive head"):
        follow(segmenter, {2: [SlicePrompt("liver", points=((PointPrompt(20, 20),),))]})


class Cloud(Discs):
    """Draws the moving disc in its semantic mask alone; its instances are all somewhere else."""

    def segment(self, encoding, prompts, settings):
        self.asked += [(encoding, prompt) for prompt in prompts]
        drawn = np.zeros((20, 40), dtype=bool)
        drawn[5:10, 5 + encoding : 10 + encoding] = encoding <= 4
        nothing = SliceInstances.nothing((20, 40))
        return [replace(nothing, semantic=drawn, presence=0.8) for _ in prompts]


@pytest.mark.parametrize("merge", [Merge.SEMANTIC, Merge.COMPONENTS])
def test_without_tracker_a_semantic_mask_is_followed_by_semantic_masks(merge):
    geometry = VolumeGeometry.pixel_grid((8, 20, 40))
    prompts, settings = {"a": {2: [SlicePrompt("liver", text="disc")]}}, {"a": InferenceSettings(merge=merge)}
    request = VolumeRequest(numbered, geometry, prompts, settings, ["liver"], followed=("a",))
    result = segment_volumes(Cloud(), [request])[0]["a"]
    assert result.labels("liver").any(axis=(1, 2)).tolist() == [True] * 5 + [False] * 3
    assert result.confidence("liver") == pytest.approx([0.8])


class ManyParts(Discs):
    """Draws 70 parts of one score, the first of which are the smallest, and a note."""

    def segment(self, encoding, prompts, settings):
        masks = np.zeros((70, 20, 40), dtype=bool)
        for number in range(70):
            row, column = divmod(number, 10)
            masks[number, 2 * row, 4 * column : 4 * column + (1 if number < 6 else 3)] = True
        boxes = np.zeros((70, 4), dtype=np.float32)
        return [SliceInstances(masks, np.full(70, 0.7, np.float32), boxes, None, ("noted",)) for _ in prompts]


def test_of_more_objects_than_are_followed_the_largest_stay_and_notes_too():
    result = detect(ManyParts(), {0: [SlicePrompt("liver", text="disc")]}, depth=2)
    assert "objects-capped:liver:70>64" in result.fallbacks
    assert "noted" in result.fallbacks
    assert result.labels("liver").max() == 64
    assert (result.labels("liver")[0] > 0).sum() == 64 * 3


def test_nothing_drawn_on_the_key_slice_is_nothing_in_the_volume():
    result = detect(Discs(), {7: [SlicePrompt("liver", boxes=(BoxPrompt(0, 0, 3, 3),))]})
    assert not result.labels("liver").any()
