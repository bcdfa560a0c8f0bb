"""Weights back to disk: a Hugging Face folder, the bare layout of Medical-SAM3, and the untrained small one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from medsam3_core.sam3.checkpoint_match import RULES
from medsam3_core.sam3.key_rules import to_official
from medsam3_core.sam3.layouts import Part
from medsam3_core.sam3.network import Sam3Weights
from medsam3_core.sam3.tiny import tiny_config, untrained_tensors
from storage.atomic_write import replacing, write_json
from storage.checkpoints.reading import CONFIG, TRACKER_CONFIG

_VIDEO_PREFIXES = {Part.DETECTOR: "detector_model.", Part.TRACKER: "tracker_model.", Part.TRACKER_NECK: "tracker_neck."}


def write_hugging_face(folder: Path, weights: Sam3Weights) -> None:
    """Write a folder that `transformers` reads: `Sam3Model`, or `Sam3VideoModel` where there is a tracker."""
    detector = weights.architecture.detector.to_dict()
    if weights.architecture.tracker is None:
        _write_folder(folder, detector, weights.parts[Part.DETECTOR])
        return
    config = {
        "model_type": "sam3_video",
        "architectures": ["Sam3VideoModel"],
        "detector_config": detector,
        "tracker_config": weights.architecture.tracker.to_dict(),
    }
    tensors = {
        prefix + name: tensor
        for part, prefix in _VIDEO_PREFIXES.items()
        for name, tensor in weights.parts[part].items()
    }
    _write_folder(folder, config, tensors)


def write_bare(file: Path, weights: Sam3Weights) -> None:
    """Write the layout of Medical-SAM3 (safetensors), with the configuration beside it; a tracker comes along."""
    tensors = to_official(weights.parts[Part.DETECTOR], RULES[Part.DETECTOR])
    write_json(file.parent / CONFIG, weights.architecture.detector.to_dict())
    if weights.architecture.tracker is not None:
        tensors |= to_official(weights.parts[Part.TRACKER_NECK], RULES[Part.TRACKER_NECK])
        tracker = to_official(weights.parts[Part.TRACKER], RULES[Part.TRACKER])
        tensors |= {f"inst_interactive_predictor.model.{name}": tensor for name, tensor in tracker.items()}
        write_json(file.parent / TRACKER_CONFIG, weights.architecture.tracker.to_dict())
    _write_safetensors(file, tensors)


def write_untrained(folder: Path, seed: int = 0) -> None:
    """Write `tiny-untrained`: the same seed gives the same bytes."""
    config = tiny_config()
    tensors = {name: tensor.bfloat16() for name, tensor in untrained_tensors(config, seed).items()}
    _write_folder(folder, config, tensors)


def _write_folder(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_safetensors(folder / "model.safetensors", tensors)
    write_json(folder / CONFIG, config)


def _write_safetensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    own = {name: tensor.detach().clone().contiguous() for name, tensor in sorted(tensors.items())}
    with replacing(file) as scratch:
        save_file(own, scratch, metadata={"format": "pt"})
