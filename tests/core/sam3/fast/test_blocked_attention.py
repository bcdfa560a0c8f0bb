"""Attention in blocks is attention, and is taken where it is the faster way and nowhere else."""

import pytest
import torch
from torch.nn import functional

from medsam3_core.sam3.fast import blocked_attention, rotary_attention
from medsam3_core.sam3.fast.blocked_attention import attend, blocked, takes_blocks
from medsam3_core.sam3.network.encoder import encode_slices
from medsam3_core.sam3.network.network import build_network
from medsam3_core.sam3.tensors.precision import precision_for
from medsam3_core.settings.inference import Dtype
from storage.weights.checkpoints import read_weights
from tests.core.sam3.golden import LAYOUTS, detector_io


def heads(tokens, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, tokens, 16, generator=generator).to(dtype) for _ in range(3))


@pytest.fixture
def avx512_bf16(monkeypatch):
    monkeypatch.setattr(blocked_attention, "bf16_is_fast", lambda _device: True)
    monkeypatch.setattr(blocked_attention, "has_amx", lambda: False)


@pytest.mark.parametrize("tokens", [256, 576, 900])
@pytest.mark.parametrize("block_scores", [1_500_000, 100_000])
def test_blocks_give_the_answer_of_one_product(tokens, block_scores, monkeypatch):
    monkeypatch.setattr(blocked_attention, "_BLOCK_SCORES", block_scores)
    query, key, value = heads(tokens)
    expected = functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(blocked(query, key, value), expected, atol=1e-5, rtol=1e-4)


def test_in_bf16_they_stay_as_close_to_fp32_as_the_rounding_of_their_inputs(avx512_bf16):
    query, key, value = heads(576, torch.bfloat16)
    exact = functional.scaled_dot_product_attention(query.float(), key.float(), value.float())
    with torch.inference_mode():
        ours = attend(query, key, value)
    assert ours.dtype is torch.bfloat16
    assert 0 < (ours.float() - exact).abs().mean() < 1e-3


@pytest.mark.parametrize(
    ("case", "blocks"), [("bf16", True), ("few", False), ("fp32", False), ("gradients", False), ("amx", False)]
)
def test_they_are_taken_where_they_are_faster(case, blocks, avx512_bf16, monkeypatch):
    if case == "amx":
        monkeypatch.setattr(blocked_attention, "has_amx", lambda: True)
    query, key, _ = heads(64 if case == "few" else 300, torch.float32 if case == "fp32" else torch.bfloat16)
    with torch.set_grad_enabled(case == "gradients"):
        assert takes_blocks(query, key) is blocks


def test_the_trunk_with_blocks_stays_as_close_to_fp32_as_without(avx512_bf16, monkeypatch):
    image, weights = detector_io()["image_uint8"].numpy(), read_weights(LAYOUTS["bare"])
    took = []

    def counted(query, key, value, dropout=0.0):
        took.append(takes_blocks(query, key))
        return attend(query, key, value, dropout)

    def trunk(dtype):
        with torch.inference_mode():
            return encode_slices(build_network(weights, precision_for(dtype, "cpu"), "cpu"), [image])[0].trunk.float()

    monkeypatch.setattr(rotary_attention, "attend", counted)
    monkeypatch.setattr(blocked_attention, "_MIN_TOKENS", 1)
    exact, with_blocks = trunk(Dtype.FP32), trunk(Dtype.MIXED)
    assert any(took)
    monkeypatch.setattr(blocked_attention, "has_amx", lambda: True)
    took.clear()
    without = trunk(Dtype.MIXED)
    assert took
    assert not any(took)
    assert (with_blocks - exact).abs().mean() < 1.2 * (without - exact).abs().mean()
