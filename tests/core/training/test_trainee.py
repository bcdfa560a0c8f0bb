"""What learns is what answers: the same masks, and gradients that reach every parameter an answer depends on."""

import torch
from transformers.models.sam3.modeling_sam3 import Sam3Attention, Sam3MaskDecoder

from medsam3_core.sam3.network.concept import ConceptQuery, TextEncoder, detect
from medsam3_core.sam3.network.encoder import SliceEncoding, detector_features
from medsam3_core.sam3.network.network import build_network
from medsam3_core.sam3.tensors.precision import precision_for
from medsam3_core.sam3.tensors.tokenizer import TextTokenizer
from medsam3_core.settings.inference import Dtype
from medsam3_core.training.trainees.trainee import Trainee
from storage.weights.checkpoints import read_weights
from storage.weights.shipped import shipped_checkpoint

BOX = (0.5, 0.4, 0.3, 0.2)


def answers(trainee, trunk):
    tokens = TextTokenizer()("liver")
    return trainee.answer_concepts(
        trunk[None],
        torch.tensor([0]),
        tokens.input_ids,
        tokens.attention_mask,
        torch.tensor([[BOX]]),
        torch.tensor([[1]]),
    )


def test_a_trainee_answers_as_the_network_that_it_becomes():
    weights = read_weights(shipped_checkpoint("tiny-medical"))
    network = build_network(weights, precision_for(Dtype.FP32, "cpu"), "cpu")
    trainee = Trainee(weights)
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        trunk = trainee.eval().trunk(pixels)[0]
        learning = answers(trainee, trunk)
        features = detector_features(network, SliceEncoding(trunk, (224, 224)))
        text = TextEncoder(network, TextTokenizer())
        (answering,) = detect(network, features, [ConceptQuery("liver", (BOX,), (1,))], text)
    torch.testing.assert_close(learning.masks[0], answering.mask_logits, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(learning.semantic[0], answering.semantic_logits, atol=1e-3, rtol=1e-3)


def test_a_trainee_has_the_modules_of_transformers_and_learns_in_all_of_them():
    trainee = Trainee(read_weights(shipped_checkpoint("tiny-medical")))
    detector = trainee.detector
    assert type(detector.mask_decoder) is Sam3MaskDecoder
    assert {type(layer.self_attn) for layer in detector.detr_encoder.layers} == {Sam3Attention}
    found = answers(trainee, trainee.trunk(torch.rand(1, 3, 224, 224) * 2 - 1)[0])
    (found.masks.square().mean() + found.semantic.square().mean()).backward()
    convolutions = detector.mask_decoder.pixel_decoder.conv_layers[:2]
    for parameter in (*convolutions.parameters(), *detector.detr_encoder.layers[0].self_attn.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in convolutions)
