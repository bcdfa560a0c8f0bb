"""What happens when memory runs out: smaller passes, then the CPU, and every step is recorded."""

import weakref

import numpy as np
import pytest
import torch

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.inference.volumes import VolumeRequest, segment_volumes
from medsam3_core.prompts.prompts import BoxPrompt, SlicePrompt
from medsam3_core.sam3.network.propagation import TrackedSlice
from medsam3_core.sam3.network.tiny import untrained_weights
from medsam3_core.sam3.segmenter import Sam3Segmenter
from medsam3_core.settings.inference import Dtype, InferenceSettings
from tests.core.sam3.segmenters import FP32, ask, assert_same, only, phantom, text, untrained

SMALL = InferenceSettings(dtype=Dtype.FP32, resolution=112)
LIVER = SlicePrompt("liver", boxes=(BoxPrompt(10, 10, 30, 30),))


def out_of_memory_above(limit, segmenter, module):
    def refuse(_module, inputs, named):
        batch = inputs[0] if inputs else named["vision_embeds"].fpn_hidden_states[0]
        if batch.shape[0] > limit:
            raise torch.OutOfMemoryError

    module(segmenter._loaded.network_for(FP32)).register_forward_pre_hook(refuse, with_kwargs=True)


def test_images_that_do_not_fit_are_halved_and_that_is_recorded():
    segmenter = untrained(images_per_pass=8)
    out_of_memory_above(2, segmenter, lambda network: network.detector.vision_encoder.backbone)
    encodings = segmenter.encode([phantom(seed) for seed in range(8)], FP32)
    assert len(encodings) == 8
    assert encodings[-1].fallbacks == ("images-halved:8>4", "images-halved:4>2")
    assert only(segmenter.segment(encodings[0], [text()], FP32)).fallbacks == encodings[0].fallbacks


def test_prompts_that_do_not_fit_are_halved_and_that_is_recorded():
    segmenter = untrained(prompts_per_pass=8)
    encoding = only(segmenter.encode([phantom(1)], FP32))
    out_of_memory_above(1, segmenter, lambda network: network.detector)
    prompts = [text(), text("spleen"), text("kidney"), text("aorta")]
    answers = segmenter.segment(encoding, prompts, FP32)
    assert answers[0].fallbacks == ("prompts-halved:4>2", "prompts-halved:2>1")
    for prompt, answer in zip(prompts, answers, strict=True):
        assert_same(answer, ask(untrained(), phantom(1), prompt))


@pytest.mark.parametrize("allowed", [True, False])
def test_what_fits_nowhere_moves_to_the_cpu_if_allowed(allowed):
    """A network that refuses every batch plays the accelerator."""
    segmenter = untrained(allow_cpu=allowed)
    out_of_memory_above(0, segmenter, lambda network: network.detector.vision_encoder.backbone)
    segmenter._loaded.device = segmenter._loaded._wanted_device = "cuda:0"
    if not allowed:
        with pytest.raises(torch.OutOfMemoryError):
            segmenter.encode([phantom(1)], FP32)
        return
    encoding = only(segmenter.encode([phantom(1)], FP32))
    assert segmenter.device == "cpu"
    answer = only(segmenter.segment(encoding, [text()], FP32))
    assert answer.fallbacks == ("cuda:0>cpu",)
    assert_same(answer, ask(untrained(), phantom(1), text()))


# ---- On the way through a volume ----


def tracking(**options):
    """A segmenter with a tracker, on an accelerator as far as it knows."""
    segmenter = Sam3Segmenter(untrained_weights(tracker=True), **options)
    network = segmenter._loaded.network_for(SMALL)
    segmenter._loaded.device = segmenter._loaded._wanted_device = "cuda:0"
    return segmenter, network


def followed(segmenter, depth=5, **options):
    """What is drawn from a box on the second slice."""
    return volume_of(segmenter, {1: [LIVER]}, depth, followed=("a",), **options)


def volume_of(segmenter, prompts, depth, followed=(), per_pass=None):
    geometry, settings = VolumeGeometry.pixel_grid((depth, 40, 48)), {"a": SMALL}
    request = VolumeRequest(
        lambda z, _: phantom(z, (40, 48)), geometry, {"a": prompts}, settings, ["liver"], followed=followed
    )
    return segment_volumes(segmenter, [request], per_pass=per_pass)[0]["a"]


@pytest.fixture(scope="module")
def undisturbed():
    """Labels of the same volume where everything fits."""
    return followed(tracking()[0]).labels("liver")


def refuse(module, call):
    """Let memory run out in one call of a module, counted from 1."""
    calls = iter(range(1, 1000))

    def count(_module, _inputs):
        if next(calls) == call:
            raise torch.OutOfMemoryError

    module.register_forward_pre_hook(count)


@pytest.mark.parametrize("part", ["tracker", "trunk"])
def test_a_volume_that_does_not_fit_is_followed_anew_on_the_cpu_and_that_is_recorded(part, undisturbed):
    """In the middle of the way up: what was drawn before stands, what comes later is drawn by a network on the CPU."""
    segmenter, network = tracking()
    refuse(network.tracker if part == "tracker" else network.detector.vision_encoder.backbone, 3)
    found = followed(segmenter)
    assert segmenter.device == "cpu"
    assert segmenter._loaded.network_for(SMALL) is not network
    assert found.fallbacks == ("cuda:0>cpu",)
    np.testing.assert_array_equal(found.labels("liver"), undisturbed)


@pytest.mark.parametrize("part", ["tracker", "trunk"])
def test_a_volume_that_does_not_fit_and_may_not_move_says_so(part):
    segmenter, network = tracking(allow_cpu=False)
    refuse(network.tracker if part == "tracker" else network.detector.vision_encoder.backbone, 3)
    with pytest.raises(torch.OutOfMemoryError):
        followed(segmenter, depth=4)


def test_memory_that_runs_out_first_in_the_trunk_and_then_in_the_tracker_moves_once():
    segmenter, network = tracking()
    refuse(network.detector.vision_encoder.backbone, 2)
    refuse(network.tracker, 2)
    assert followed(segmenter, depth=3).fallbacks == ("cuda:0>cpu",)


def test_slices_that_do_not_fit_together_are_halved_before_a_volume_moves_and_every_step_is_recorded(undisturbed):
    segmenter, network = tracking(images_per_pass=4)

    def above_two(_module, inputs):
        if inputs[0].shape[0] > 2:
            raise torch.OutOfMemoryError

    network.detector.vision_encoder.backbone.register_forward_pre_hook(above_two)
    refuse(network.tracker, 4)
    found = followed(segmenter, per_pass=4)
    assert found.fallbacks[0].startswith("images-halved:")
    assert found.fallbacks[-1] == "cuda:0>cpu"
    np.testing.assert_array_equal(found.labels("liver"), undisturbed)


def test_what_it_took_to_fit_is_recorded_also_where_nothing_is_found(monkeypatch):
    segmenter, network = tracking()
    refuse(network.tracker, 2)
    monkeypatch.setattr(TrackedSlice, "score", 0.0)
    found = followed(segmenter, depth=3)
    assert np.flatnonzero(found.labels("liver").any(axis=(1, 2))).tolist() == [1]
    assert found.fallbacks == ("cuda:0>cpu",)


# ---- Bounded by the slices in flight, not by the volume ----


@pytest.mark.parametrize("way", ["every slice", "tracker", "detection"])
def test_encodings_of_a_volume_are_let_go_as_soon_as_their_slice_is_answered(way):
    segmenter = Sam3Segmenter(untrained_weights(tracker=way == "tracker"))
    alive, most, encode = weakref.WeakSet(), [], segmenter.encode

    def counted(images, settings):
        encodings = encode(images, settings)
        alive.update(encodings)
        most.append(len(alive))
        return encodings

    segmenter.encode = counted
    if way == "every slice":
        volume_of(segmenter, {z: [SlicePrompt("liver", text="liver")] for z in range(9)}, 9)
    else:
        followed(segmenter, 9)
    assert len(most) >= 6  # by detection an object may end before the volume does
    assert max(most) <= 3
