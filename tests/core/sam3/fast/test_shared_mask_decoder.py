"""The mask decoder whose work is shared between prompts answers as that of `transformers`."""

import pytest
import torch
from torch.nn import functional
from transformers.models.sam3.configuration_sam3 import Sam3MaskDecoderConfig
from transformers.models.sam3.modeling_sam3 import Sam3MaskDecoder, Sam3PixelDecoder

from medsam3_core.sam3.fast.shared_mask_decoder import SharedMaskDecoder, SharedPixelDecoder, enlarging_kernel


def maps_of(sides, batch=1):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 32, side, side, generator=generator) for side in sides]


@pytest.mark.parametrize("sides", [(36, 18, 9), (8, 4), (4, 2, 1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_pixels_are_those_of_transformers(sides, batch):
    torch.manual_seed(0)
    theirs = Sam3PixelDecoder(Sam3MaskDecoderConfig(hidden_size=32)).eval()
    ours = SharedPixelDecoder(theirs)
    *skips, found = maps_of(sides, batch)
    with torch.no_grad():
        expected = theirs([*skips, found])
        got = ours([*ours.convolved_skips([*skips, found])[:-1], found])
    assert got.shape == (batch, 32, sides[0], sides[0])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_skips_convolved_once_serve_every_prompt_unchanged():
    torch.manual_seed(0)
    ours = SharedPixelDecoder(Sam3PixelDecoder(Sam3MaskDecoderConfig(hidden_size=32)))
    with torch.no_grad():
        *skips, found = ours.convolved_skips(maps_of((16, 8, 4)))
        first = ours([*skips, found])
        ours([*skips, 1 + found])
        assert torch.equal(ours([*skips, found]), first)


def test_the_kernel_enlarges_and_convolves_in_one():
    generator = torch.Generator().manual_seed(2)
    weight, pixels = torch.randn(5, 4, 3, 3, generator=generator), torch.randn(2, 4, 7, 6, generator=generator)
    larger = pixels.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    expected = functional.conv2d(larger, weight, padding=1)
    drawn = functional.conv_transpose2d(pixels, enlarging_kernel(weight), stride=2, padding=1)
    torch.testing.assert_close(drawn, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("words", [3, 7])
def test_masks_are_those_of_transformers(words):
    torch.manual_seed(0)
    config = Sam3MaskDecoderConfig(hidden_size=32, num_attention_heads=4)
    config._attn_implementation = "sdpa"
    theirs = Sam3MaskDecoder(config).eval()
    for parameter in theirs.parameters():
        parameter.data.normal_(std=0.2)
    ours, (*skips, coarse) = SharedMaskDecoder(theirs), maps_of((16, 8, 4), batch=2)
    given = {
        "decoder_queries": torch.randn(2, 5, 32),
        "encoder_hidden_states": torch.randn(2, 16, 32),
        "prompt_features": torch.randn(2, 7, 32),
        "prompt_mask": (torch.arange(7) < words).expand(2, 7),
    }
    with torch.no_grad():
        expected = theirs(backbone_features=[*skips, coarse], **given)
        got = ours(backbone_features=ours.pixel_decoder.convolved_skips([*skips, coarse]), **given)
    assert got.pred_masks.shape == (2, 5, 16, 16)
    torch.testing.assert_close(got.pred_masks, expected.pred_masks, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(got.semantic_seg, expected.semantic_seg, atol=1e-4, rtol=1e-4)
