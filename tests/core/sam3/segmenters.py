"""Slices, prompts and segmenters that the SAM3 tests share."""

import numpy as np

from medsam3_core.prompts.prompts import BoxPrompt, SlicePrompt
from medsam3_core.sam3.network.tiny import untrained_weights
from medsam3_core.sam3.segmenter import Sam3Segmenter
from medsam3_core.settings.inference import Dtype, InferenceSettings, PromptMode

FP32 = InferenceSettings(dtype=Dtype.FP32)
INTERACTIVE = InferenceSettings(dtype=Dtype.FP32, mode=PromptMode.INTERACTIVE)


def untrained(**options):
    return Sam3Segmenter(untrained_weights(), **options)


def phantom(seed, shape_yx=(120, 160)):
    """A slice with discs of several grey values on noise."""
    height, width = shape_yx
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.full(shape_yx, random.integers(0, 60), dtype=float)
    for _ in range(4):
        centre_y, centre_x = random.uniform(0.2, 0.8, 2) * shape_yx
        radius = random.uniform(0.08, 0.3) * min(shape_yx)
        image[(y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2] = random.integers(80, 255)
    noisy = np.clip(image + random.normal(0, 8, shape_yx), 0, 255).astype(np.uint8)
    return np.stack([noisy] * 3, axis=-1)


def text(words="liver"):
    return SlicePrompt("structure", text=words)


def box(x0=40, y0=30, x1=110, y1=90, positive=True):
    return BoxPrompt(x0, y0, x1, y1, positive=positive)


def only(answers):
    (answer,) = answers
    return answer


def ask(segmenter, image, prompt, settings=FP32):
    return only(segmenter.segment(only(segmenter.encode([image], settings)), [prompt], settings))


def propagate(segmenter, slice_of, count, prompts, settings=FP32):
    return segmenter.follow(lambda z: only(segmenter.encode([slice_of(z)], settings)), count, prompts, settings)


def assert_same(one, other, atol=1e-5):
    np.testing.assert_allclose(one.scores, other.scores, atol=atol)
    np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=100 * atol)
    assert (one.masks != other.masks).mean() < 1e-3


def count_trunk_passes(segmenter, settings=FP32):
    slices = []
    trunk = segmenter._loaded.network_for(settings).detector.vision_encoder.backbone
    trunk.register_forward_pre_hook(lambda _module, inputs: slices.append(inputs[0].shape[0]))
    return slices
