"""`tiny-untrained`: a small seeded SAM3 that nobody trained, to exercise the real path without real weights.

It answers with blobs, not with anatomy. Its class and presence biases are set so that most answers are not empty:
otherwise everything downstream would pass on zeros.
"""

import math
from typing import Any

import torch

from medsam3_core.sam3.architecture import architecture_from
from medsam3_core.sam3.layouts import Part
from medsam3_core.sam3.network import expected_shapes

Tensors = dict[str, torch.Tensor]

_WIDTH, _HEADS = 64, 4
_PRESENCE_BIAS = 3.0
_CLASS_BIAS = 0.06
"""Score = query . text / sqrt(width): a bias direction that both share lifts most scores over 0.5."""
_TABLES = (
    "embed.weight",
    "embedding.weight",
    "position_embeddings",
    "presence_token.weight",
    "reference_points.weight",
)
"""Tables that are looked up rather than multiplied: unit variance keeps their rows apart."""


def tiny_config(image_size: int = 224) -> dict[str, Any]:
    """A `Sam3Config` of 4.8 million parameters, most of them vocabulary."""
    head = {"hidden_size": _WIDTH, "num_attention_heads": _HEADS, "num_layers": 2, "intermediate_size": 2 * _WIDTH}
    trunk = {
        "model_type": "sam3_vit_model",
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": image_size,
        "pretrain_image_size": 112,
        "window_size": 8,
        "global_attn_indexes": [1, 3],
        "layer_norm_eps": 1e-5,
    }
    text = {
        "model_type": "clip_text_model",
        "vocab_size": 49408,
        "hidden_size": _WIDTH,
        "intermediate_size": 4 * _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "projection_dim": 64,
        "hidden_act": "gelu",
    }
    return {
        "model_type": "sam3",
        "vision_config": {"model_type": "sam3_vision_model", "fpn_hidden_size": _WIDTH, "backbone_config": trunk},
        "text_config": text,
        "geometry_encoder_config": head,
        "detr_encoder_config": head,
        "detr_decoder_config": head | {"num_queries": 32},
        "mask_decoder_config": {"hidden_size": _WIDTH, "num_attention_heads": _HEADS},
    }


def untrained_tensors(config: dict[str, Any], seed: int = 0) -> Tensors:
    """Seeded tensors for a configuration, float32 values that bfloat16 holds exactly.

    Returns:
        A state dict of `Sam3Model`.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = expected_shapes(architecture_from(config))[Part.DETECTOR]
    tensors = {name: _drawn(name, shape, generator) for name, shape in sorted(shapes.items())}
    tensors["detr_decoder.presence_head.layer3.bias"] += _PRESENCE_BIAS
    shared = torch.randn(_WIDTH, generator=generator)
    tensors["dot_product_scoring.text_proj.bias"] += shared
    tensors["dot_product_scoring.query_proj.bias"] += _CLASS_BIAS * shared
    return {name: tensor.bfloat16().float() for name, tensor in tensors.items()}


def _drawn(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 0.02 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    if name.endswith(_TABLES):
        return noise
    fan_in = math.prod(shape[1:])
    return noise / math.sqrt(fan_in)
