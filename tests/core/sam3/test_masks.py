"""From slices to the model's input and from its logits to masks: each step that is easy to get wrong."""

import numpy as np
import pytest
import torch

from medsam3_core.errors import CaseDataError
from medsam3_core.sam3.tensors import postprocess, preprocess
from medsam3_core.sam3.tensors.postprocess import boxes_of, masks_at
from medsam3_core.sam3.tensors.preprocess import pixel_values
from medsam3_core.settings.inference import Dtype, InferenceSettings
from tests.core.sam3.segmenters import ask, phantom, text


def test_trap_resizing_floats_or_without_antialiasing_gives_another_input():
    image = phantom(8, (300, 400))
    exact = pixel_values([image], 224)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    floating = torch.nn.functional.interpolate(planes, size=(224, 224), mode="bilinear", antialias=True) / 127.5 - 1
    aliased = torch.nn.functional.interpolate(planes, size=(224, 224), mode="bilinear") / 127.5 - 1
    assert 1e-3 < (exact - floating).abs().max() < 0.02
    assert (exact - aliased).abs().max() > 0.05


def test_trap_12_bit_voxels_scaled_by_their_type_would_be_black():
    with pytest.raises(CaseDataError, match="windowed beforehand"):
        preprocess.require_slice(np.full((8, 8, 3), 2000, dtype=np.uint16))


def test_trap_logits_are_interpolated_before_the_threshold():
    logits = torch.tensor([[[-1.0, 8.0]]])
    ours = masks_at(logits, (1, 8))[0, 0]
    squashed = torch.nn.functional.interpolate(logits.sigmoid()[None], size=(1, 8), mode="bilinear")[0, 0, 0] > 0.5
    assert ours.tolist() == [False, False, True, True, True, True, True, True]
    assert squashed.tolist() != ours.tolist()


def test_masks_are_drawn_in_chunks_without_a_difference(monkeypatch):
    logits = torch.randn(5, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = masks_at(logits, (40, 30))
    monkeypatch.setattr(postprocess, "_CHUNK_FLOATS", 1300)
    assert np.array_equal(masks_at(logits, (40, 30)), whole)


def test_more_masks_than_memory_allows_are_capped_aloud(tiny, monkeypatch):
    monkeypatch.setattr(postprocess, "MAX_MASK_PIXELS", 3 * 120 * 160)
    answer = ask(tiny, phantom(1), text(), InferenceSettings(threshold=0.0, dtype=Dtype.FP32))
    assert len(answer.scores) == 3
    assert answer.fallbacks == ("instances-capped:32>3",)


def test_boxes_of_masks_are_half_open():
    logits = torch.full((1, 8, 16), -1.0)
    logits[0, 2:5, 4:12] = 1
    assert boxes_of(logits)[0].tolist() == [4 / 16, 2 / 8, 12 / 16, 5 / 8]
