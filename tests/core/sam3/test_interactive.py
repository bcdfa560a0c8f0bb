"""Points, boxes and masks on the interactive head, and their propagation through a volume."""

import numpy as np
import pytest
import torch

from medsam3_core.errors import UsageError
from medsam3_core.prompts.prompts import MaskPrompt, PointPrompt, SlicePrompt
from medsam3_core.sam3.keys.layouts import Part
from medsam3_core.sam3.network import propagation
from medsam3_core.sam3.network.propagation import VolumePrompt
from medsam3_core.sam3.network.tiny import untrained_weights
from medsam3_core.sam3.segmenter import Sam3Segmenter
from medsam3_core.sam3.tensors.postprocess import logits_at, masks_at
from storage.weights.checkpoints import open_segmenter
from tests.core.sam3.golden import LAYOUTS, ROUNDING, track_prompt, tracker_io, video_slice
from tests.core.sam3.segmenters import (
    FP32,
    INTERACTIVE,
    ask,
    assert_same,
    box,
    count_trunk_passes,
    only,
    phantom,
    propagate,
    text,
)


def test_untrained_weights_can_have_a_tracker_too():
    weights = untrained_weights(tracker=True)
    segmenter = Sam3Segmenter(weights)
    mask = np.zeros((120, 160), dtype=bool)
    mask[30:90, 40:110] = True
    prompts = [
        SlicePrompt("s", points=((PointPrompt(80, 60),),)),
        SlicePrompt("s", boxes=(box(),), points=((PointPrompt(80, 60),),)),
        SlicePrompt("s", masks=(MaskPrompt(mask),)),
    ]
    answers = segmenter.segment(only(segmenter.encode([phantom(1)], FP32)), prompts, FP32)
    assert all(answer.masks.any() for answer in answers)
    drawn = list(propagate(segmenter, phantom, 3, [VolumePrompt(prompts[2], 1)]))
    assert [one.z for one in drawn] == [1, 2, 0]
    alone = untrained_weights().parts[Part.DETECTOR]
    assert all(torch.equal(tensor, alone[name]) for name, tensor in weights.parts[Part.DETECTOR].items())


def golden_slice():
    return video_slice(0)


def test_weights_with_a_tracker_take_every_prompt(released):
    assert released.capabilities.interactive
    assert released.capabilities.propagation


@pytest.mark.parametrize("case", ["vid_box", "vid_points", "vid_mask"])
def test_interactive_prompts_give_one_instance_each(released, case):
    answer = ask(released, golden_slice(), track_prompt(case), INTERACTIVE)
    assert len(answer.scores) == 1
    assert 0 <= answer.scores[0] <= 1
    x0, y0, x1, y1 = answer.boxes_xyxy[0]
    assert 0 <= x0 < x1 <= 224
    assert 0 <= y0 < y1 <= 224


def test_a_clicked_box_is_the_official_answer(released):
    answer = ask(released, golden_slice(), track_prompt("vid_box"), INTERACTIVE)
    official = logits_at(tracker_io()["img_box.masks"][0], (224, 224))[0].numpy()
    differs = answer.masks[0] != (official > 0)
    assert not (differs & (np.abs(official) > ROUNDING)).any()
    assert differs.sum() <= 2
    assert answer.scores[0] == pytest.approx(float(tracker_io()["img_box.iou"][0, 0]), abs=5e-6)


@pytest.mark.parametrize(("kinds", "case"), [("points", "img_points"), ("box points", "img_box_points")])
def test_clicked_points_are_the_best_of_the_official_candidates(released, kinds, case):
    points = track_prompt("vid_points").points
    boxes = track_prompt("vid_box").boxes if "box" in kinds else ()
    answer = ask(released, golden_slice(), SlicePrompt("s", boxes=boxes, points=points))
    best = int(tracker_io()[f"{case}.iou"][0].argmax())
    assert np.array_equal(answer.masks[0], masks_at(tracker_io()[f"{case}.masks"][0, best][None], (224, 224))[0])
    assert answer.scores[0] == pytest.approx(float(tracker_io()[f"{case}.iou"][0, best]), abs=5e-6)


def test_points_need_no_setting_and_boxes_need_one(released):
    encoding = only(released.encode([golden_slice()], FP32))
    points, boxes = track_prompt("vid_points"), track_prompt("vid_box")
    assert only(released.segment(encoding, [points], FP32)).masks.shape[0] == 1
    concept, clicked = (only(released.segment(encoding, [boxes], one)) for one in (FP32, INTERACTIVE))
    assert concept.masks.shape[0] != clicked.masks.shape[0] or not np.array_equal(concept.masks, clicked.masks)


def test_both_heads_share_one_trunk_pass():
    segmenter = open_segmenter(LAYOUTS["released"])
    passes = count_trunk_passes(segmenter)
    encoding = only(segmenter.encode([golden_slice()], FP32))
    answers = segmenter.segment(encoding, [text(), track_prompt("vid_points"), text("spleen")], FP32)
    assert passes == [1]
    assert_same(answers[2], ask(segmenter, golden_slice(), text("spleen")))


def test_as_many_instances_as_boxes_or_point_sets(released):
    boxes = SlicePrompt("s", boxes=(box(50, 40, 160, 170), box(10, 10, 60, 60)), per_instance=True)
    assert len(ask(released, golden_slice(), boxes, INTERACTIVE).scores) == 2
    points = SlicePrompt(
        "s", points=((PointPrompt(100, 120),), (PointPrompt(40, 60), PointPrompt(9, 9, positive=False)))
    )
    assert len(ask(released, golden_slice(), points).scores) == 2


@pytest.mark.parametrize(
    ("prompt", "settings", "match"),
    [
        (SlicePrompt("s", text="liver"), INTERACTIVE, "has a text, which the interactive head does not read"),
        (SlicePrompt("s", text="liver", points=((PointPrompt(3, 4),),)), FP32, "has a text"),
        (SlicePrompt("s", boxes=(box(positive=False),)), INTERACTIVE, "does not accept negative boxes"),
        (SlicePrompt("s", points=((PointPrompt(224, 4),),)), FP32, r"point 224,4 lies outside .*x in 0\.\.223"),
        (SlicePrompt("s", masks=(MaskPrompt(np.ones((9, 9), dtype=bool)),)), FP32, r"mask prompt has shape \(9, 9\)"),
        (SlicePrompt("s", masks=(MaskPrompt(np.zeros((224, 224), dtype=bool)),)), FP32, "mask prompt is empty"),
        (SlicePrompt("s", boxes=(box(), box()), points=((PointPrompt(3, 4),),)), FP32, "2 boxes, 1 point sets"),
    ],
)
def test_interactive_prompts_that_make_no_sense_are_refused(released, prompt, settings, match):
    with pytest.raises(UsageError, match=match):
        ask(released, golden_slice(), prompt, settings)


def test_propagation_draws_every_slice_once_in_both_directions(released):
    slices = []

    def slice_of(z):
        slices.append(z)
        return video_slice(z)

    drawn = list(propagate(released, slice_of, 5, [VolumePrompt(track_prompt("vid_box"), 2)]))
    assert [one.z for one in drawn] == [2, 3, 4, 1, 0]
    assert slices == [2, 3, 4, 1, 0]
    assert all(one.mask.shape == (224, 224) and 0 <= one.score <= 1 for one in drawn)


def test_objects_on_different_slices_share_their_sweeps(released):
    slices = []

    def slice_of(z):
        slices.append(z)
        return video_slice(z)

    prompts = [VolumePrompt(track_prompt("vid_box"), 1), VolumePrompt(track_prompt("vid_points"), 3)]
    together = list(propagate(released, slice_of, 5, prompts))
    assert slices == [1, 2, 3, 4, 2, 1, 0]
    assert sorted((one.index, one.z) for one in together) == [(i, z) for i in range(2) for z in range(5)]
    for index, prompt in enumerate(prompts):
        alone = {one.z: one.mask for one in propagate(released, video_slice, 5, [prompt])}
        assert all(np.array_equal(one.mask, alone[one.z]) for one in together if one.index == index)


def test_propagation_forgets_what_it_no_longer_looks_back_to(released):
    network = released._loaded.network_for(FP32)
    track = propagation._Track(network, 0, VolumePrompt(track_prompt("vid_box"), 0), 60)
    with torch.inference_mode():
        encoding = only(released.encode([golden_slice()], FP32))
        features = propagation.tracker_features(network, encoding)
        for z in range(60):
            track.step(z, encoding, features, reverse=False)
    remembered = track._session.output_dict_per_obj[0]["non_cond_frame_outputs"]
    assert len(remembered) <= 2 * track._look_back + 1
    assert not any("high_res_masks" in kept for kept in remembered.values())


def test_propagation_refuses_slices_outside_and_several_objects(released):
    with pytest.raises(UsageError, match="is on slice 7 of a volume of 5 slices"):
        next(propagate(released, video_slice, 5, [VolumePrompt(track_prompt("vid_box"), 7)]))
    two = SlicePrompt("s", boxes=(box(), box(1, 1, 9, 9)))
    with pytest.raises(UsageError, match="holds 2 objects"):
        next(propagate(released, video_slice, 5, [VolumePrompt(two, 0)]))
