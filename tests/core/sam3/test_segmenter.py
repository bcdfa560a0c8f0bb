"""SAM3 behind the `Segmenter` protocol: one encoder pass a slice, every kind of prompt, clear refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medsam3_core.errors import CaseDataError, UnsupportedPromptError, UsageError
from medsam3_core.inference.protocol import Segmenter, SliceInstances
from medsam3_core.prompts.prompts import MaskPrompt, PointPrompt, SlicePrompt
from medsam3_core.sam3.network.encoder import SliceEncoding
from medsam3_core.sam3.network.propagation import VolumePrompt
from medsam3_core.sam3.tensors.precision import bf16_is_fast, precision_for
from medsam3_core.settings.inference import Dtype, InferenceSettings, Merge
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
    untrained,
)

# ---- Answers ----


def test_it_is_a_segmenter(tiny):
    segmenter: Segmenter = tiny
    assert segmenter.device == "cpu"
    assert (segmenter.capabilities.text, segmenter.capabilities.box) == (True, True)
    assert (segmenter.capabilities.interactive, segmenter.capabilities.propagation) == (False, False)


@pytest.mark.parametrize(
    "prompt",
    [
        *(text(words) for words in ("liver", "optic disc", "retinal vessels", "nuclei")),
        SlicePrompt("structure", boxes=(box(),)),
        SlicePrompt("structure", boxes=(box(5, 5, 30, 25), box(60, 60, 75, 75, positive=False))),
    ],
)
def test_untrained_weights_draw_non_empty_masks_on_most_slices(tiny, prompt):
    images = [phantom(seed, (120 + 20 * seed, 120 + 30 * seed)) for seed in range(4)]
    drawn = [ask(tiny, image, prompt).masks.any() for image in images]
    assert sum(drawn) >= len(drawn) / 2


def test_an_answer_has_the_size_of_its_slice_and_falls_in_score(tiny):
    answer = ask(tiny, phantom(1, (77, 133)), text())
    assert answer.masks.dtype == bool
    assert answer.masks.shape == (len(answer.scores), 77, 133)
    assert answer.boxes_xyxy.shape == (len(answer.scores), 4)
    assert answer.scores.dtype == answer.boxes_xyxy.dtype == np.float32
    assert (np.diff(answer.scores) <= 0).all()
    assert (answer.scores > FP32.threshold).all()
    assert answer.semantic is None


def test_threshold_decides_how_many_instances_there_are(tiny):
    image = phantom(2)
    counts = [
        len(ask(tiny, image, text(), InferenceSettings(threshold=t, dtype=Dtype.FP32)).scores) for t in (0.0, 0.5, 0.99)
    ]
    assert counts[0] == 32
    assert counts[0] >= counts[1] >= counts[2] == 0


def test_an_answer_above_every_score_is_empty_and_well_formed(tiny):
    answer = ask(tiny, phantom(2), text(), InferenceSettings(threshold=0.99, dtype=Dtype.FP32))
    nothing = SliceInstances.nothing((120, 160))
    assert answer.masks.shape == nothing.masks.shape
    assert answer.boxes_xyxy.shape == nothing.boxes_xyxy.shape


def test_boxes_say_something_else_than_text_and_negatives_than_positives(tiny):
    image = phantom(3)
    prompts = [
        text(),
        SlicePrompt("s", text="liver", boxes=(box(),)),
        SlicePrompt("s", text="liver", boxes=(box(), box(5, 5, 30, 25, positive=False))),
        SlicePrompt("s", text="liver", boxes=(box(), box(5, 5, 30, 25, positive=True))),
    ]
    answers = tiny.segment(
        only(tiny.encode([image], FP32)), prompts, InferenceSettings(threshold=0.0, dtype=Dtype.FP32)
    )
    scores = [tuple(answer.scores.tolist()) for answer in answers]
    assert len(set(scores)) == len(prompts)


def test_semantic_mask_comes_where_the_settings_ask_for_it(tiny):
    answer = ask(tiny, phantom(4), text(), InferenceSettings(merge=Merge.SEMANTIC, dtype=Dtype.FP32))
    assert answer.semantic.shape == (120, 160)
    assert answer.semantic.dtype == bool


def test_the_semantic_mask_is_empty_where_presence_is_not_above_the_threshold(tiny):
    def asked(threshold):
        settings = InferenceSettings(merge=Merge.SEMANTIC, threshold=threshold, dtype=Dtype.FP32)
        return ask(tiny, phantom(4), text(), settings)

    drawn = asked(0.0)
    assert drawn.semantic.any()
    assert 0.0 < drawn.presence < 1.0
    assert (drawn.scores <= drawn.presence).all()
    assert np.array_equal(asked(drawn.presence - 1e-4).semantic, drawn.semantic)
    assert not asked(drawn.presence + 1e-4).semantic.any()


@pytest.mark.parametrize("shape_yx", [(1, 1), (1, 300), (17, 3)])
def test_slices_of_any_size_are_answered(tiny, shape_yx):
    answer = ask(tiny, np.zeros((*shape_yx, 3), dtype=np.uint8), text())
    assert answer.masks.shape[1:] == shape_yx


# ---- One pass ----


def test_a_slice_is_encoded_once_however_many_prompts_ask():
    segmenter = untrained()
    passes = count_trunk_passes(segmenter)
    encoding = only(segmenter.encode([phantom(1)], FP32))
    segmenter.segment(encoding, [text(), text("spleen"), SlicePrompt("s", boxes=(box(),))], FP32)
    segmenter.segment(encoding, [text("kidney")], FP32)
    assert passes == [1]


def test_text_is_encoded_once_per_string():
    segmenter = untrained()
    calls = []
    network = segmenter._loaded.network_for(FP32)
    network.detector.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    for seed in range(2):
        segmenter.segment(only(segmenter.encode([phantom(seed)], FP32)), [text(), text("spleen"), text()], FP32)
    assert len(calls) == 2


def test_batches_answer_as_singles_do():
    images = [phantom(seed, (90 + seed, 120)) for seed in range(3)]
    prompts = [text(), SlicePrompt("s", boxes=(box(), box(1, 1, 9, 9))), SlicePrompt("s", text="polyp", boxes=(box(),))]
    single, batched = untrained(), untrained(images_per_pass=3, prompts_per_pass=8)
    assert count_trunk_passes(batched) == []
    for image, encoding in zip(images, batched.encode(images, FP32), strict=True):
        together = batched.segment(encoding, prompts, FP32)
        for prompt, answer in zip(prompts, together, strict=True):
            assert_same(answer, ask(single, image, prompt))


def test_images_per_pass_is_kept_to():
    segmenter = untrained(images_per_pass=2)
    passes = count_trunk_passes(segmenter)
    segmenter.encode([phantom(seed) for seed in range(5)], FP32)
    assert passes == [2, 2, 1]


@pytest.mark.parametrize("dtype", [Dtype.FP32, Dtype.MIXED])
def test_an_encoding_survives_a_cache_on_disk(tiny, dtype):
    settings = InferenceSettings(dtype=dtype)
    encoding = only(tiny.encode([phantom(5)], settings))
    array = encoding.to_array()
    assert array.dtype == (np.float32 if dtype is Dtype.FP32 else np.uint16)
    restored = SliceEncoding.from_array(array, encoding.shape_yx)
    one, other = (only(tiny.segment(e, [text()], settings)) for e in (encoding, restored))
    assert np.array_equal(one.masks, other.masks)


# ---- Precision and resolution ----


def test_precision_changes_with_the_settings_and_never_by_autocast(tiny):
    image = phantom(6)
    full = ask(tiny, image, text(), InferenceSettings(dtype=Dtype.FP32, threshold=0.0))
    for dtype in (Dtype.MIXED, Dtype.BF16):
        reduced = ask(tiny, image, text(), InferenceSettings(dtype=dtype, threshold=0.0))
        assert reduced.scores.max() == pytest.approx(full.scores.max(), abs=0.05)
        assert not torch.is_autocast_enabled("cpu")
    assert_same(ask(tiny, image, text(), InferenceSettings(dtype=Dtype.FP32, threshold=0.0)), full)


@pytest.mark.filterwarnings("ignore:In CPU autocast")
def test_autocast_of_a_caller_changes_nothing(tiny):
    expected = ask(tiny, phantom(1), text())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ask(tiny, phantom(1), text())
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")
    np.testing.assert_array_equal(inside.scores, expected.scores)
    np.testing.assert_array_equal(inside.masks, expected.masks)


def test_prepared_slices_are_answered_as_the_slices_themselves(tiny):
    settings = replace(FP32, tiles=2)
    for one in (FP32, settings):
        plain = tiny.encode([phantom(1), phantom(2)], one)
        ready = tiny.encode(tiny.prepare([phantom(1), phantom(2)], one), one)
        for first, second in zip(plain, ready, strict=True):
            np.testing.assert_array_equal(tiny.pack(first), tiny.pack(second))


def test_auto_precision_is_mixed_where_bf16_is_fast(monkeypatch):
    monkeypatch.setattr("medsam3_core.sam3.tensors.precision.bf16_is_fast", lambda _device: True)
    assert precision_for(Dtype.AUTO, "cpu").name is Dtype.MIXED
    monkeypatch.setattr("medsam3_core.sam3.tensors.precision.bf16_is_fast", lambda _device: False)
    assert precision_for(Dtype.AUTO, "cpu").name is Dtype.FP32


@pytest.mark.parametrize(
    ("found", "fast"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)]
)
def test_bf16_is_fast_where_the_processor_multiplies_it(monkeypatch, found, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert bf16_is_fast("cpu") is fast


def test_half_resolution_is_taken_and_others_are_refused(tiny):
    half = InferenceSettings(resolution=112, dtype=Dtype.FP32)
    assert ask(tiny, phantom(7), text(), half).masks.shape[1:] == (120, 160)
    assert_same(
        ask(tiny, phantom(7), text(), InferenceSettings(resolution=224, dtype=Dtype.FP32)),
        ask(tiny, phantom(7), text()),
    )
    with pytest.raises(UsageError, match="resolution=300 does not fit these weights; they take 224, 112"):
        tiny.encode([phantom(7)], InferenceSettings(resolution=300))


def test_an_encoding_made_with_other_settings_is_refused(tiny):
    encoding = only(tiny.encode([phantom(7)], FP32))
    with pytest.raises(UsageError, match="encode the slice again"):
        tiny.segment(encoding, [text()], InferenceSettings(resolution=112, dtype=Dtype.FP32))


# ---- Refusals ----


@pytest.mark.parametrize(
    ("prompt", "settings"),
    [
        (SlicePrompt("s", points=((PointPrompt(3, 4),),)), FP32),
        (SlicePrompt("s", masks=(MaskPrompt(np.ones((120, 160), dtype=bool)),)), FP32),
        (SlicePrompt("s", boxes=(box(),)), INTERACTIVE),
    ],
)
def test_weights_without_interactive_head_say_which_would_do(tiny, prompt, settings):
    with pytest.raises(UnsupportedPromptError, match=r"no interactive head.*sam3\.pt"):
        ask(tiny, phantom(1), prompt, settings)


def test_weights_without_tracker_cannot_propagate(tiny):
    with pytest.raises(UnsupportedPromptError, match="no trained tracker to propagate with"):
        next(propagate(tiny, lambda _z: phantom(1), 3, [VolumePrompt(text(), 0)]))


@pytest.mark.parametrize("bad", [box(-1, 0, 5, 5), box(0, 0, 161, 5), box(0, 0, 5, 121), box(200, 200, 220, 220)])
def test_boxes_that_leave_the_slice_are_refused(tiny, bad):
    with pytest.raises(UsageError, match=r"leaves the slice of 160 x 120 pixels; give x in 0\.\.160"):
        ask(tiny, phantom(1), SlicePrompt("s", boxes=(bad,)))


def test_counter_examples_alone_are_refused(tiny):
    with pytest.raises(UsageError, match="has only negative boxes; add a positive box or a text"):
        ask(tiny, phantom(1), SlicePrompt("s", boxes=(box(positive=False),)))


def test_special_tokens_are_refused(tiny):
    with pytest.raises(UsageError, match="special token"):
        ask(tiny, phantom(1), text("liver <|endoftext|>"))


def test_long_text_is_answered_and_reported(tiny):
    assert ask(tiny, phantom(1), text("tumour " * 43)).fallbacks == ("text-truncated:45>32",)


@pytest.mark.parametrize(
    "image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.uint16), np.zeros((0, 9, 3), np.uint8)]
)
def test_slices_of_another_kind_are_refused(tiny, image):
    with pytest.raises(CaseDataError, match="SAM3 takes uint8 of shape"):
        tiny.encode([image], FP32)


def test_huge_slices_are_refused_with_the_limit(tiny):
    huge = np.broadcast_to(np.zeros(3, np.uint8), (20_000, 20_000, 3))
    with pytest.raises(CaseDataError, match="20000 x 20000 pixels is over the limit of"):
        tiny.encode([huge], FP32)
