"""What happens when memory runs out: smaller passes, then the CPU, and every step is recorded."""

import pytest
import torch

from tests.sam3.segmenters import FP32, ask, assert_same, only, phantom, text, untrained


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
