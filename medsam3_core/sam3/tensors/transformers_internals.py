"""Private parts of `transformers`; all our uses of them are here.

`tests/core/sam3/test_internals.py` fails when one of them changes.
"""

from typing import Any

from transformers import TrainingArguments
from transformers.models.sam3.modeling_sam3 import (
    Sam3MaskDecoderOutput,
    Sam3SinePositionEmbedding,
    Sam3VisionEncoderOutput,
    Sam3VisionNeck,
    Sam3ViTRoPEAttention,
    inverse_sigmoid,
)
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import (
    Sam3TrackerVideoImageSegmentationOutput,
    Sam3TrackerVideoInferenceSession,
)

__all__ = [
    "Sam3MaskDecoderOutput",
    "Sam3SinePositionEmbedding",
    "Sam3TrackerVideoImageSegmentationOutput",
    "Sam3TrackerVideoInferenceSession",
    "Sam3ViTRoPEAttention",
    "Sam3VisionEncoderOutput",
    "Sam3VisionNeck",
    "inverse_sigmoid",
    "mark_as_loaded",
    "use_one_device",
]


def mark_as_loaded(tensor: Any) -> None:
    """Mark a tensor as loaded, so that `initialize_weights` keeps its value."""
    tensor._is_hf_initialized = True


def use_one_device(arguments: TrainingArguments) -> None:
    """Keep the Trainer from splitting a batch over all GPUs."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
