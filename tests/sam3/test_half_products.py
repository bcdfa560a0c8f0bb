"""In mixed precision the fusion encoder multiplies in bf16 where many tokens meet, and nothing else does."""

import re

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from medsam3_core.inference_settings import Dtype
from medsam3_core.sam3.half_products import HALF, HalfLinear, half_attention
from medsam3_core.sam3.network import build_network
from medsam3_core.sam3.precision import precision_for
from storage.checkpoints import read_weights
from tests.sam3.golden import LAYOUTS, needs_golden

LAYER = torch.nn.Module()
LAYER.is_causal = False


def heads(tokens):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, tokens, 16, generator=generator) for _ in range(3))


def is_of_a_head(name):
    return not name.startswith(("vision_encoder.", "text_encoder."))


def test_many_tokens_are_compared_in_bf16_and_come_back_in_fp32():
    query, key, value = heads(400)
    exact, _ = sdpa_attention_forward(LAYER, query, key, value, None, scaling=0.25)
    ours, weights = half_attention(LAYER, query, key, value, None, scaling=0.25)
    assert (ours.dtype, weights) == (torch.float32, None)
    assert 0 < (ours - exact).abs().mean() < 2e-3


@pytest.mark.parametrize("tokens", [64, 400])
def test_few_tokens_and_masks_stay_in_fp32(tokens):
    query, key, value = heads(tokens)
    mask = torch.ones(2, 1, tokens, tokens, dtype=torch.bool).tril() if tokens == 400 else None
    exact, _ = sdpa_attention_forward(LAYER, query, key, value, mask, scaling=0.25)
    ours, _ = half_attention(LAYER, query, key, value, mask, scaling=0.25)
    assert torch.equal(ours, exact)


@needs_golden
@pytest.mark.parametrize(("dtype", "name"), [(Dtype.MIXED, HALF), (Dtype.FP32, "sdpa"), (Dtype.BF16, "sdpa")])
def test_mixed_precision_alone_uses_it_and_in_the_fusion_encoder_alone(dtype, name):
    detector = build_network(read_weights(LAYOUTS["bare"]), precision_for(dtype, "cpu"), "cpu").detector
    assert detector.detr_encoder.config._attn_implementation == name
    assert detector.detr_decoder.config._attn_implementation == "sdpa"
    half = {name for name, one in detector.named_parameters() if one.dtype is torch.bfloat16 and is_of_a_head(name)}
    tokens = re.compile(r"detr_encoder\.layers\.\d+\.(self_attn|self_attn\.attention|mlp)\.\w+\.(weight|bias)")
    wanted = {name for name, _ in detector.named_parameters() if is_of_a_head(name) and tokens.fullmatch(name)}
    everything = {name for name, _ in detector.named_parameters() if is_of_a_head(name)}
    assert half == {Dtype.MIXED: wanted, Dtype.FP32: set(), Dtype.BF16: everything}[dtype]
    assert wanted


def test_a_linear_layer_multiplies_in_bf16_and_gives_fp32():
    torch.manual_seed(0)
    exact = torch.nn.Linear(64, 32)
    rows = torch.randn(2, 300, 64)
    ours = HalfLinear(exact)(rows)
    assert ours.dtype is torch.float32
    assert 0 < (ours - exact(rows)).abs().mean() < 2e-3
