"""Writing of weights: a Hugging Face folder, the bare layout of Medical-SAM3, and the released layout."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from medsam3_core.sam3.keys.key_rules import to_official
from medsam3_core.sam3.keys.layouts import HUGGING_FACE_PREFIXES, Part
from medsam3_core.sam3.keys.match import RULES
from medsam3_core.sam3.network.network import Sam3Weights
from medsam3_core.sam3.network.tiny import untrained_weights
from storage.store.atomic import replacing, write_json
from storage.weights.checkpoints.reading import CONFIG, TRACKER_CONFIG


def write_hugging_face(folder: Path, weights: Sam3Weights, dtype: torch.dtype | None = None) -> None:
    """Write a folder that `transformers` reads: `Sam3Model`, or `Sam3VideoModel` with a tracker.

    `dtype` is the type of the tensors on disk; by default it is not changed.
    """
    config = weights.architecture.detector.to_dict()
    tensors = dict(weights.parts[Part.DETECTOR])
    if weights.architecture.tracker is not None:
        config = {
            "model_type": "sam3_video",
            "architectures": ["Sam3VideoModel"],
            "detector_config": config,
            "tracker_config": weights.architecture.tracker.to_dict(),
        }
        tensors = {
            HUGGING_FACE_PREFIXES[part] + name: tensor
            for part, named in weights.parts.items()
            for name, tensor in named.items()
        }
    folder.mkdir(parents=True, exist_ok=True)
    _write_safetensors(folder / "model.safetensors", {name: tensor.to(dtype) for name, tensor in tensors.items()})
    write_json(folder / CONFIG, config)


def write_bare(file: Path, weights: Sam3Weights) -> None:
    """Write the layout of Medical-SAM3 (safetensors) with any tracker, and the configurations beside it."""
    tensors = to_official(weights.parts[Part.DETECTOR], RULES[Part.DETECTOR])
    if weights.architecture.tracker is not None:
        tensors |= to_official(weights.parts[Part.TRACKER_NECK], RULES[Part.TRACKER_NECK])
        tracker = to_official(weights.parts[Part.TRACKER], RULES[Part.TRACKER])
        tensors |= {f"inst_interactive_predictor.model.{name}": tensor for name, tensor in tracker.items()}
    _write_configs(file.parent, weights)
    _write_safetensors(file, tensors)


def write_released(file: Path, weights: Sam3Weights) -> None:
    """Write the layout of the released `sam3.pt`, `{"model": {"detector.*", "tracker.*"}}`, with configurations."""
    tensors = {
        f"detector.{name}": tensor
        for part in (Part.DETECTOR, Part.TRACKER_NECK)
        for name, tensor in to_official(weights.parts.get(part, {}), RULES[part]).items()
    }
    tracker = to_official(weights.parts.get(Part.TRACKER, {}), RULES[Part.TRACKER])
    tensors |= {f"tracker.{name}": tensor for name, tensor in tracker.items()}
    _write_configs(file.parent, weights)
    with replacing(file) as scratch:
        torch.save({"model": {name: tensor.contiguous() for name, tensor in tensors.items()}}, scratch)


def write_untrained(folder: Path, seed: int = 0, *, tracker: bool = False) -> None:
    """Write `tiny-untrained`: the same seed gives the same bytes."""
    write_hugging_face(folder, untrained_weights(seed, tracker=tracker), torch.bfloat16)


def _write_configs(folder: Path, weights: Sam3Weights) -> None:
    write_json(folder / CONFIG, weights.architecture.detector.to_dict())
    if weights.architecture.tracker is not None:
        write_json(folder / TRACKER_CONFIG, weights.architecture.tracker.to_dict())


def _write_safetensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    own = {name: tensor.detach().clone().contiguous() for name, tensor in sorted(tensors.items())}
    with replacing(file) as scratch:
        save_file(own, scratch, metadata={"format": "pt"})
