"""Rotary positions as complex numbers give the answer of transformers' own attention, with and without gradients."""

import pytest
import torch
from transformers.models.sam3.modeling_sam3 import Sam3ViTLayer, Sam3ViTRoPEAttention

from medsam3_core.sam3.fast.rotary_attention import RotaryAttention
from medsam3_core.sam3.network.architecture import architecture_from
from medsam3_core.sam3.network.network import build_network
from medsam3_core.sam3.network.tiny import tiny_config
from medsam3_core.sam3.tensors.precision import precision_for
from medsam3_core.settings.inference import Dtype
from storage.weights.checkpoints import read_weights
from tests.core.sam3.golden import LAYOUTS


def layers(dtype):
    """A trunk's layer as transformers has it, its attention and ours with the same parameters."""
    config = architecture_from(tiny_config()).detector.vision_config.backbone_config
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    layer = Sam3ViTLayer(config, window_size=4).to(dtype)
    ours = RotaryAttention(config).to(dtype)
    ours.load_state_dict(layer.attention.state_dict())
    return layer, layer.attention, ours


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-3)])
def test_the_answer_is_that_of_transformers(dtype, rounding):
    layer, theirs, ours = layers(dtype)
    windows = torch.randn(3, 4, 4, theirs.hidden_size).to(dtype)
    positions = layer.rotary_emb(windows, layer.position_ids)
    with torch.inference_mode():
        expected, got = theirs(windows, positions)[0], ours(windows, positions)[0]
        turned = ours(windows, (positions[0], -positions[1]))[0]
    assert got.dtype is dtype
    torch.testing.assert_close(got, expected, atol=rounding, rtol=rounding)
    assert (turned - expected).abs().max() > 10 * rounding, "positions must matter for this test to say anything"


def test_gradients_are_those_of_transformers():
    layer, theirs, ours = layers(torch.float32)
    windows = torch.randn(2, 4, 4, theirs.hidden_size)
    positions = layer.rotary_emb(windows, layer.position_ids)
    for attention in (theirs, ours):
        attention(windows, positions)[0].square().sum().backward()
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        expected, got = getattr(theirs, name).weight.grad, getattr(ours, name).weight.grad
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-4)


def test_every_layer_of_the_trunk_has_it():
    built = build_network(read_weights(LAYOUTS["bare"]), precision_for(Dtype.FP32, "cpu"), "cpu")
    attentions = [layer.attention for layer in built.detector.vision_encoder.backbone.layers]
    assert attentions
    assert all(type(one) is RotaryAttention for one in attentions)
    assert issubclass(RotaryAttention, Sam3ViTRoPEAttention)
