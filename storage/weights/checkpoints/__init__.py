"""Checkpoints on disk and on the Hugging Face hub: strict reading, identity by SHA-256, and writing."""

from storage.weights.checkpoints.hub import resolve
from storage.weights.checkpoints.identity import weights_sha256
from storage.weights.checkpoints.reading import check_weights, open_segmenter, read_checkpoint, read_weights
from storage.weights.checkpoints.writing import write_bare, write_hugging_face, write_released, write_untrained

__all__ = [
    "check_weights",
    "open_segmenter",
    "read_checkpoint",
    "read_weights",
    "resolve",
    "weights_sha256",
    "write_bare",
    "write_hugging_face",
    "write_released",
    "write_untrained",
]
