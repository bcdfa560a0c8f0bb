"""In mixed precision the fusion encoder multiplies in bf16 where many tokens meet, and nothing else does."""

import re

import pytest
import torch
from transformers.models.sam3.configuration_sam3 import Sam3DETREncoderConfig
from transformers.models.sam3.modeling_sam3 import Sam3DetrEncoderLayer

from medsam3_core.sam3.fast import blocked_attention
from medsam3_core.sam3.fast.half_products import HalfAttention, HalfMlp
from medsam3_core.sam3.network.network import build_network
from medsam3_core.sam3.tensors.precision import precision_for
from medsam3_core.settings.inference import Dtype
from storage.weights.checkpoints import read_weights
from tests.core.sam3.golden import LAYOUTS


def layers():
    """A layer of the fusion encoder twice: exact, and to be changed."""
    config = Sam3DETREncoderConfig(hidden_size=32, num_attention_heads=4, intermediate_size=64)
    config._attn_implementation = "sdpa"
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(Sam3DetrEncoderLayer(config).eval())
    return made


@pytest.mark.parametrize("amx", [True, False])
def test_attention_multiplies_in_bf16_and_gives_fp32(amx, monkeypatch):
    monkeypatch.setattr(blocked_attention, "bf16_is_fast", lambda _device: True)
    monkeypatch.setattr(blocked_attention, "has_amx", lambda: amx)
    exact, other = (layer.self_attn for layer in layers())
    tokens, moved = torch.randn(2, 300, 32), torch.randn(2, 300, 32)
    with torch.no_grad():
        expected = exact(query=moved, key=moved, value=tokens)[0]
        ours, weights = HalfAttention(other)(query=moved, key=moved, value=tokens)
    assert (ours.dtype, ours.shape, weights) == (torch.float32, (2, 300, 32), None)
    assert 0 < (ours - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_words_that_do_not_count_are_not_read():
    exact, other = (layer.cross_attn for layer in layers())
    tokens, words = torch.randn(2, 300, 32), torch.randn(2, 7, 32)
    counts = (torch.arange(7) < 4)[None, None, None].expand(2, 1, 300, 7)
    with torch.no_grad():
        expected = exact(query=tokens, key=words[:, :4], value=words[:, :4])[0]
        masked = HalfAttention(other)(query=tokens, key=words, value=words, attention_mask=counts)[0]
        unmasked = HalfAttention(other)(query=tokens, key=words, value=words)[0]
    assert (masked - expected).abs().mean() < 0.02 * expected.abs().mean()
    assert (unmasked - expected).abs().mean() > 0.1 * expected.abs().mean()


def test_an_mlp_multiplies_in_bf16_and_gives_fp32():
    exact, other = (layer.mlp for layer in layers())
    rows = torch.randn(2, 30, 32)
    with torch.no_grad():
        expected, ours = exact(rows), HalfMlp(other)(rows)
    assert ours.dtype is torch.float32
    assert 0 < (ours - expected).abs().mean() < 0.02 * expected.abs().mean()


def is_of_a_head(name):
    return not name.startswith(("vision_encoder.", "text_encoder."))


@pytest.mark.parametrize("dtype", [Dtype.MIXED, Dtype.FP32, Dtype.BF16])
def test_mixed_precision_alone_uses_it_and_in_the_fusion_encoder_alone(dtype):
    detector = build_network(read_weights(LAYOUTS["bare"]), precision_for(dtype, "cpu"), "cpu").detector
    heads = {name: one.dtype for name, one in detector.named_parameters() if is_of_a_head(name)}
    tokens = re.compile(
        r"detr_encoder\.layers\.\d+\.(self_attn|self_attn\.attention|cross_attn|mlp)\.\w+\.(weight|bias)"
    )
    wanted = {name for name in heads if tokens.fullmatch(name)}
    assert wanted
    half = {name for name, one in heads.items() if one is torch.bfloat16}
    assert half == {Dtype.MIXED: wanted, Dtype.FP32: set(), Dtype.BF16: set(heads)}[dtype]
