"""Architecture of the shipped weights: SAM3 with 7 million parameters, for a laptop."""

import math
from typing import Any

import numpy as np
import torch

from medsam3_core.sam3.keys.layouts import HUGGING_FACE_PREFIXES
from medsam3_core.sam3.network.architecture import Architecture, architecture_from
from medsam3_core.sam3.network.network import Sam3Weights, expected_shapes, match_weights

_TRACKER_WIDTH = 128
"""Minimum width of a tracker."""


def narrow_tracker_config() -> dict[str, Any]:
    """A `Sam3TrackerVideoConfig` of 2 million parameters, for any trunk."""
    return {
        "model_type": "sam3_tracker_video",
        "vision_config": {"model_type": "sam3_vision_model", "fpn_hidden_size": _TRACKER_WIDTH},
        "prompt_encoder_config": {"hidden_size": _TRACKER_WIDTH},
        "mask_decoder_config": {
            "hidden_size": _TRACKER_WIDTH,
            "mlp_dim": 2 * _TRACKER_WIDTH,
            "iou_head_hidden_dim": _TRACKER_WIDTH,
        },
        "memory_attention_hidden_size": _TRACKER_WIDTH,
        "memory_attention_num_layers": 2,
        "memory_attention_feed_forward_hidden_size": _TRACKER_WIDTH,
        "memory_encoder_hidden_size": _TRACKER_WIDTH,
        "mask_downsampler_embed_dim": _TRACKER_WIDTH,
        "memory_fuser_embed_dim": _TRACKER_WIDTH,
        "memory_fuser_intermediate_dim": 2 * _TRACKER_WIDTH,
    }


_WIDTH, _HEADS = 64, 4
POSITIONS = "position_embeddings"
_BRANCH_ENDS = ("o_proj.weight", "out_proj.weight", "fc2.weight", "linear2.weight")
"""Last layers of residual branches; they start small, so that the image dominates at first."""
_CROSS = ("cross_attn", "final_attn")
"""Branches that bring the prompt to the image; they start at full scale."""
_QUERY, _KEY, _FOCUS = "q_proj.weight", "k_proj.weight", 1.5
"""Keys start equal to the queries, so that tokens attend to similar tokens and clicks to their place at once
(mimetic initialisation, Trockman and Kolter, ICML 2023)."""
_OUTPUTS = (
    "mask_embedder.layers.2.weight",
    "box_head.layer3.weight",
    "semantic_projection.weight",
    "presence_head.layer3.weight",
    "text_proj.weight",
)
"""Output layers; they start near 0."""
_FOURIER = "positional_embedding"
"""Random frequencies of the tracker's positions; image and clicks share one table."""
_PATCHES = "patch_embeddings.projection.weight"
_COLOURED = 1 / 4
"""Share of the first filters that detect colour."""
TABLES = ("embed.weight", "embedding.weight", "presence_token.weight", "reference_points.weight")
"""Lookup tables, in contrast to factors of products."""


def narrow_config(
    image_size: int, trunk: dict[str, Any], text: dict[str, Any], head: dict[str, Any], *, geometry: int, queries: int
) -> dict[str, Any]:
    """A `Sam3Config` of 64 channels behind the trunk, for input sides that are multiples of 14 pixels.

    `trunk`, `text` and `head` (geometry encoder, DETR encoder and decoder) add fields; `geometry` counts layers of the
    geometry encoder.
    """
    layers = {"hidden_size": _WIDTH, "num_attention_heads": _HEADS, "intermediate_size": 2 * _WIDTH, **head}
    trunk = {"image_size": image_size, "num_attention_heads": 4, "layer_norm_eps": 1e-5, **trunk}
    text = {
        "vocab_size": 49408,
        "hidden_size": _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": _HEADS,
        "max_position_embeddings": 32,
        "hidden_act": "gelu",
        **text,
    }
    return {
        "model_type": "sam3",
        "vision_config": {
            "model_type": "sam3_vision_model",
            "fpn_hidden_size": _WIDTH,
            "backbone_config": {"model_type": "sam3_vit_model", **trunk},
        },
        "text_config": {"model_type": "clip_text_model", **text},
        "geometry_encoder_config": layers | {"num_layers": geometry},
        "detr_encoder_config": layers | {"num_layers": 2},
        "detr_decoder_config": layers | {"num_layers": 2, "num_queries": queries},
        "mask_decoder_config": {"hidden_size": _WIDTH, "num_attention_heads": _HEADS},
    }


def small_architecture() -> Architecture:
    """Detector and tracker on one trunk at 224 pixels; the tracker is trained on slices only.

    Almost half of the detector's parameters are vocabulary.
    """
    trunk = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 6,
        "pretrain_image_size": 224,
        "window_size": 8,
        "global_attn_indexes": [1, 3, 5],
    }
    text = {"intermediate_size": 2 * _WIDTH, "projection_dim": 8}
    detector = narrow_config(224, trunk, text, {"dropout": 0.0}, geometry=1, queries=100)
    return architecture_from(detector, narrow_tracker_config() | {"propagation": False})


def fresh_weights(architecture: Architecture, seed: int) -> Sam3Weights:
    """Initial weights for training from scratch: variance kept from layer to layer, zero biases.

    The same seed gives the same values on every machine.
    """
    random = np.random.default_rng(seed)
    tensors = {
        HUGGING_FACE_PREFIXES[part] + name: _start(name, shape, random)
        for part, shapes in expected_shapes(architecture).items()
        for name, shape in sorted(shapes.items())
    }
    for name in tensors:
        query = name.replace(_KEY, _QUERY)
        if name.endswith(_KEY) and tensors[query].shape == tensors[name].shape:
            tensors[name] = _FOCUS * tensors[query]
    for name in [name for name in tensors if name.endswith(_FOURIER)]:
        tensors[name] = tensors["tracker_model.shared_image_embedding.positional_embedding"]
    return match_weights(tensors, architecture, "fresh weights")


def _start(name: str, shape: torch.Size, random: np.random.Generator) -> torch.Tensor:
    if name.endswith(_PATCHES):
        return _whitening_filters(shape, random)
    if len(shape) <= 1:
        return torch.full(shape, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
    noise = torch.from_numpy(random.standard_normal(tuple(shape), dtype=np.float32))
    if name.endswith(_FOURIER):
        return noise
    if name.endswith(POSITIONS):
        return 0.1 * noise
    if name.endswith(TABLES):
        return (0.5 if name.startswith("text_encoder") else 0.2 if "point_embed" in name else 1.0) * noise
    branch_end = name.endswith(_BRANCH_ENDS) and not any(cross in name for cross in _CROSS)
    scale = 0.1 if any(layer in name for layer in _OUTPUTS) else 0.2 if branch_end else 1.0
    return scale * noise / math.sqrt(math.prod(shape[1:]))


def _whitening_filters(shape: torch.Size, random: np.random.Generator) -> torch.Tensor:
    """First filters with equal response to all details of a patch: mixed cosines, weighted up with frequency.

    Amplitudes of images fall with frequency (Field, J Opt Soc Am A 1987): random filters would detect little but the
    mean of a patch, and would have to learn edges first.
    """
    count, channels, side, _ = shape
    along = np.cos(np.pi * np.arange(side)[:, None] * (np.arange(side) + 0.5) / side)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    order = sorted(np.ndindex(side, side), key=lambda vu: (np.hypot(*vu), vu))
    opponents = np.linalg.qr(np.c_[np.ones(channels), np.eye(channels)[:, 1:]])[0].T  # grey first, then colours
    coloured = int(count * _COLOURED) // max(1, channels - 1)
    wanted = [(number, coloured if number else count - coloured * (channels - 1)) for number in range(channels)]
    filters = [
        0.12 * (1 + np.hypot(v, u)) * opponents[number][:, None, None] * np.outer(along[v], along[u])
        for number, amount in wanted
        for v, u in order[:amount]
    ]
    mixture = np.linalg.qr(random.standard_normal((count, count)))[0]
    mixed = mixture @ np.reshape(filters, (count, -1))
    return torch.from_numpy(mixed.reshape(tuple(shape)).astype(np.float32))
