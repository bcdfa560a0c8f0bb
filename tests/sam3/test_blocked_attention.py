"""Attention in blocks is attention: same answer as torch's own, for whatever it takes on."""

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from medsam3_core.inference_settings import Dtype
from medsam3_core.sam3 import attention, network
from medsam3_core.sam3.attention import BLOCKED, blocked_attention
from medsam3_core.sam3.encoder import encode_slices
from medsam3_core.sam3.network import build_network
from medsam3_core.sam3.precision import precision_for
from storage.checkpoints import read_weights
from tests.sam3.golden import LAYOUTS, detector_io, needs_golden

LAYER = torch.nn.Module()
LAYER.is_causal = False


def heads(tokens, dtype=torch.float32, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, 3, tokens, 16, generator=generator).to(dtype) for _ in range(3))


@pytest.mark.parametrize("tokens", [256, 576, 900])
@pytest.mark.parametrize("block_scores", [1_500_000, 100_000])
def test_blocks_give_the_answer_of_one_product(tokens, block_scores, monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK_SCORES", block_scores)
    query, key, value = heads(tokens)
    with torch.inference_mode():
        ours, weights = blocked_attention(LAYER, query, key, value, None, scaling=0.25)
        reference, _ = sdpa_attention_forward(LAYER, query, key, value, None, scaling=0.25)
    assert weights is None
    torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-4)


def test_in_bf16_it_stays_close_to_fp32():
    query, key, value = heads(576, torch.bfloat16)
    with torch.inference_mode():
        ours, _ = blocked_attention(LAYER, query, key, value, None, scaling=0.25)
        exact, _ = sdpa_attention_forward(LAYER, query.float(), key.float(), value.float(), None, scaling=0.25)
    assert ours.dtype is torch.bfloat16
    assert (ours.float() - exact).abs().max() < 0.02
    assert (ours.float() - exact).abs().mean() < 1e-3


@pytest.mark.parametrize("case", ["few tokens", "mask", "gradients"])
def test_everything_else_goes_to_torch(case, monkeypatch):
    asked = []

    def spy(*arguments, **options):
        asked.append(case)
        return sdpa_attention_forward(*arguments, **options)

    monkeypatch.setattr(attention, "sdpa_attention_forward", spy)
    query, key, value = heads(64 if case == "few tokens" else 300)
    mask = torch.zeros(2, 1, 300, 300) if case == "mask" else None
    with torch.set_grad_enabled(case == "gradients"):
        blocked_attention(LAYER, query, key, value, mask, scaling=0.25)
    assert asked == [case]


@needs_golden
@pytest.mark.parametrize(("fast", "name"), [(True, BLOCKED), (False, "sdpa")])
def test_the_trunk_uses_it_where_bf16_is_fast(fast, name, monkeypatch):
    monkeypatch.setattr(network, "bf16_is_fast", lambda _device: fast)
    built = build_network(read_weights(LAYOUTS["bare"]), precision_for(Dtype.MIXED, "cpu"), "cpu")
    assert built.detector.vision_encoder.backbone.config._attn_implementation == name
    assert built.detector.detr_encoder.config._attn_implementation == "sdpa"


@needs_golden
def test_the_trunk_with_blocks_stays_as_close_to_fp32_as_without(monkeypatch):
    image = detector_io()["image_uint8"].numpy()
    weights = read_weights(LAYOUTS["bare"])

    def trunk(dtype, fast):
        monkeypatch.setattr(network, "bf16_is_fast", lambda _device: fast)
        with torch.inference_mode():
            return encode_slices(build_network(weights, precision_for(dtype, "cpu"), "cpu"), [image])[0].trunk.float()

    exact, plain, blocked = trunk(Dtype.FP32, False), trunk(Dtype.MIXED, False), trunk(Dtype.MIXED, True)
    assert not torch.equal(plain, blocked)
    assert (blocked - exact).abs().mean() < 1.2 * (plain - exact).abs().mean()
