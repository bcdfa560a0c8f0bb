"""The architecture of the tracker that all small weights have."""

from typing import Any

_WIDTH = 128
"""The least that it takes."""


def narrow_tracker_config() -> dict[str, Any]:
    """A `Sam3TrackerVideoConfig` of 2 million parameters, for any trunk."""
    return {
        "model_type": "sam3_tracker_video",
        "vision_config": {"model_type": "sam3_vision_model", "fpn_hidden_size": _WIDTH},
        "prompt_encoder_config": {"hidden_size": _WIDTH},
        "mask_decoder_config": {"hidden_size": _WIDTH, "mlp_dim": 2 * _WIDTH, "iou_head_hidden_dim": _WIDTH},
        "memory_attention_hidden_size": _WIDTH,
        "memory_attention_num_layers": 2,
        "memory_attention_feed_forward_hidden_size": _WIDTH,
        "memory_encoder_hidden_size": _WIDTH,
        "mask_downsampler_embed_dim": _WIDTH,
        "memory_fuser_embed_dim": _WIDTH,
        "memory_fuser_intermediate_dim": 2 * _WIDTH,
    }
