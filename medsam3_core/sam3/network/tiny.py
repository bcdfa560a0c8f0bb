"""`tiny-untrained`: a small seeded, untrained SAM3, to run the full pipeline without real weights.

It draws blobs, not anatomy. Its class and presence biases make most results non-empty, so that later steps have masks
to work on.
"""

import math
from typing import Any

import numpy as np
import torch

from medsam3_core.sam3.keys.layouts import HUGGING_FACE_PREFIXES, Part
from medsam3_core.sam3.network.architecture import Architecture, architecture_from
from medsam3_core.sam3.network.network import Sam3Weights, expected_shapes, match_weights
from medsam3_core.sam3.network.small import POSITIONS, TABLES, narrow_config, narrow_tracker_config

Tensors = dict[str, torch.Tensor]

_PRESENCE_BIAS = 4.0
_CLASS_BIAS = (1.0, 0.2)
"""Biases of text and query along a common direction; lift most scores above 0.5."""
_MASK_BIAS = (0.1, -0.3)
"""Biases of pixels and masks, downwards, so that masks cover a part of the slice."""


def tiny_config(image_size: int = 224) -> dict[str, Any]:
    """A `Sam3Config` of 4.8 million parameters, most of them vocabulary."""
    trunk = {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "pretrain_image_size": 112,
        "window_size": 8,
        "global_attn_indexes": [1, 3],
    }
    text = {"intermediate_size": 256, "projection_dim": 64}
    return narrow_config(image_size, trunk, text, {}, geometry=2, queries=32)


def untrained_weights(seed: int = 0, *, tracker: bool = False) -> Sam3Weights:
    """Seeded weights, float32 values that bfloat16 holds exactly.

    The same seed gives the same detector with and without tracker, which adds points, masks and propagation.
    """
    return seeded_weights(architecture_from(tiny_config(), narrow_tracker_config() if tracker else None), seed)


def seeded_weights(
    architecture: Architecture, seed: int = 0, dtype: torch.dtype = torch.float32, source: str = "tiny-untrained"
) -> Sam3Weights:
    """Untrained weights of any architecture, values that bfloat16 holds exactly; `source` is the name in messages."""
    random = np.random.default_rng(seed)
    tensors: Tensors = {}
    for part, shapes in expected_shapes(architecture).items():
        drawn = {name: _drawn(name, shape, random) for name, shape in sorted(shapes.items())}
        if part is Part.DETECTOR:
            _make_it_find_something(drawn, random)
        if part is Part.TRACKER:
            drawn["mask_decoder.pred_obj_score_head.proj_out.bias"] += _PRESENCE_BIAS
        tensors |= {HUGGING_FACE_PREFIXES[part] + name: tensor.bfloat16().to(dtype) for name, tensor in drawn.items()}
    return match_weights(tensors, architecture, source)


def _make_it_find_something(detector: Tensors, random: np.random.Generator) -> None:
    detector["detr_decoder.presence_head.layer3.bias"] += _PRESENCE_BIAS
    _shift_products(detector, "dot_product_scoring.text_proj", "dot_product_scoring.query_proj", _CLASS_BIAS, random)
    _shift_products(
        detector, "mask_decoder.instance_projection", "mask_decoder.mask_embedder.layers.2", _MASK_BIAS, random
    )


def _shift_products(
    tensors: Tensors, one: str, other: str, bias: tuple[float, float], random: np.random.Generator
) -> None:
    """Give two layers whose outputs are multiplied a common bias direction, which shifts their products."""
    direction = _noise(tensors[f"{one}.bias"].shape, random)
    tensors[f"{one}.bias"] += bias[0] * direction
    tensors[f"{other}.bias"] += bias[1] * direction


def _drawn(name: str, shape: torch.Size, random: np.random.Generator) -> torch.Tensor:
    noise = _noise(shape, random)
    if len(shape) == 1:
        return 0.02 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    if name.endswith((*TABLES, POSITIONS)):
        return noise  # unit variance keeps the rows of a table apart
    return noise / math.sqrt(math.prod(shape[1:]))


def _noise(shape: torch.Size, random: np.random.Generator) -> torch.Tensor:
    """Standard normal numbers, the same on every machine (those of torch depend on vector instructions)."""
    return torch.from_numpy(random.standard_normal(tuple(shape), dtype=np.float32))
