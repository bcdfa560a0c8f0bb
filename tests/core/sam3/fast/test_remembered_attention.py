"""The first attention of the fusion encoder runs once per slice and answers as if it ran for every prompt."""

import pytest
import torch

from medsam3_core.sam3.fast.remembered_attention import RememberedAttention
from medsam3_core.sam3.network.concept import ConceptQuery, TextEncoder, detect
from medsam3_core.sam3.network.encoder import SliceEncoding, detector_features
from medsam3_core.sam3.network.network import build_network
from medsam3_core.sam3.tensors.precision import precision_for
from medsam3_core.sam3.tensors.tokenizer import TextTokenizer
from medsam3_core.settings.inference import Dtype
from storage.weights.checkpoints import read_weights
from tests.core.sam3.golden import LAYOUTS


class Counted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.asked = 0

    def forward(self, query, key, value, **options):
        self.asked += 1
        return query + 2 * key + 3 * value, None


def remembered(tokens, **options):
    attention = RememberedAttention(Counted())
    for one in tokens:
        assert torch.equal(attention(one, one, one, **options)[0], 6 * one)
    return attention.attention.asked


def test_the_same_tokens_are_asked_for_once_and_others_anew():
    tokens = torch.arange(12.0).view(1, 4, 3)
    nearly = tokens.clone()
    nearly[0, 3, 2] += 1e-6
    assert nearly[0, 3, 2] != tokens[0, 3, 2]
    assert remembered([tokens, tokens.clone(), tokens]) == 1
    assert remembered([tokens, nearly, tokens]) == 3
    assert remembered([tokens, tokens.repeat(2, 1, 1), tokens.double()]) == 3


def test_with_a_mask_nothing_is_remembered():
    tokens = torch.ones(1, 4, 3)
    assert remembered([tokens, tokens], attention_mask=torch.ones(1, 1, 4, 4)) == 2


@pytest.mark.parametrize("dtype", [Dtype.FP32, Dtype.MIXED])
def test_prompts_on_two_slices_get_the_answers_of_a_network_that_forgets(dtype):
    network = build_network(read_weights(LAYOUTS["bare"]), precision_for(dtype, "cpu"), "cpu")
    first = network.detector.detr_encoder.layers[0]
    architecture = network.architecture
    generator = torch.Generator().manual_seed(0)
    width = architecture.detector.vision_config.backbone_config.hidden_size
    slices = [
        SliceEncoding(
            torch.randn(width, architecture.grid, architecture.grid, generator=generator).to(network.precision.encoder),
            (50, 50),
        )
        for _ in range(2)
    ]
    queries = [ConceptQuery(text, (), ()) for text in ("liver", "spleen")]

    def answers():
        text = TextEncoder(network, TextTokenizer())
        with torch.inference_mode():
            return [
                detect(network, detector_features(network, one), [query], text)[0].mask_logits
                for one in (*slices, slices[0])
                for query in queries
            ]

    assert isinstance(first.self_attn, RememberedAttention)
    remembering = answers()
    first.self_attn = first.self_attn.attention
    for ours, plain in zip(remembering, answers(), strict=True):
        assert torch.equal(ours, plain)
