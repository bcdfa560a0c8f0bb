"""Reading of weights: tensors, architecture and vocabulary of a path."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medsam3_core.errors import WeightsError
from medsam3_core.sam3.keys.layouts import Layout, Part
from medsam3_core.sam3.keys.match import MatchReport, match_tensors, parts_present
from medsam3_core.sam3.network.architecture import Architecture, architecture_from, released_architecture
from medsam3_core.sam3.network.network import Sam3Weights, expected_shapes, match_weights, require_finite
from medsam3_core.sam3.segmenter import Sam3Segmenter
from storage.weights.checkpoints.adapters import Adapter, base_location, is_adapter, merge, read_adapter
from storage.weights.checkpoints.hub import resolve
from storage.weights.checkpoints.tensor_files import SUFFIXES, read_tensors

CONFIG, TRACKER_CONFIG = "config.json", "tracker_config.json"
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PREFERRED = ("model.safetensors", "pytorch_model.bin")
_VOCABULARY_FILES = ("tokenizer.json", "vocab.json")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Content of a path before matching.

    Attributes:
        path: The file with the tensors, or its index.
        tensors: State dict with the names of the file, memory-mapped if the format allows.
        architecture: From the configuration beside the file, else the released one.
        vocabulary: Folder with a tokenizer of these weights, if any.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    architecture: Architecture
    vocabulary: str | None = None


def open_segmenter(path: Path | str, device: str = "cpu", *, base: Path | str | None = None) -> Sam3Segmenter:
    """Weights at a path as a segmenter; the network is built with the first slice.

    Raises:
        WeightsError: If the path holds no complete SAM3 weights.
    """
    return Sam3Segmenter(read_weights(path, base), device)


def read_weights(path: Path | str, base: Path | str | None = None) -> Sam3Weights:
    """Read and match a checkpoint file or folder of any layout, or a LoRA adapter with its base.

    Args:
        path: File, folder or `hf://` location.
        base: Base of an adapter; by default the one of its configuration.

    Raises:
        WeightsMismatchError: If a tensor does not match.
        WeightsError: If it cannot be read or is not SAM3.
    """
    local = resolve(str(path))
    if is_adapter(local):
        return _adapted(read_adapter(local), base)
    checkpoint = read_checkpoint(local)
    weights = match_weights(checkpoint.tensors, checkpoint.architecture, str(path), checkpoint.vocabulary)
    return replace(weights, reread=partial(_read_again, local, _stamp(checkpoint.path)))


def check_weights(path: Path | str, base: Path | str | None = None) -> MatchReport:
    """Match every key of a checkpoint without refusing mismatches.

    Raises:
        WeightsError: If it cannot be read, is not SAM3, or holds NaN or infinite values.
    """
    local = resolve(str(path))
    if not is_adapter(local):
        checkpoint = read_checkpoint(local)
        report = match_tensors(checkpoint.tensors, expected_shapes(checkpoint.architecture)).report
        if not report.complete:
            return report
    weights = read_weights(path, base)
    require_finite(weights)
    return weights.report


def _read_again(path: Path, stamp: tuple[int, int, int]) -> Sam3Weights:
    """Read a checkpoint again, for another precision or resolution."""
    file = _tensor_file(path)
    if not file.is_file() or _stamp(file) != stamp:
        msg = f"{file} was changed or removed while in use; start the run again"
        raise WeightsError(msg)
    return read_weights(path)


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _adapted(adapter: Adapter, base: Path | str | None) -> Sam3Weights:
    location = base or adapter.base
    if location is None:
        msg = f"{adapter.folder} is a LoRA adapter without a base; name its weights with --base NAME|PATH"
        raise WeightsError(msg)
    weights = read_weights(base_location(adapter, str(location)))
    report = replace(weights.report, layout=Layout.LORA, matched=(*weights.report.matched, *adapter.tensors))
    parts = merge(adapter, weights.parts)
    return replace(weights, parts=parts, report=report, source=str(adapter.folder), reread=None)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file or folder without matching it.

    Raises:
        WeightsError: If it cannot be read or its configuration is not one of SAM3.
    """
    file = _tensor_file(path)
    tensors = read_tensors(file)
    try:
        architecture = _architecture_beside(file, Part.TRACKER in parts_present(list(tensors)))
    except WeightsError as error:
        msg = f"{file}: {error}"
        raise WeightsError(msg) from error
    has_vocabulary = any((file.parent / name).is_file() for name in _VOCABULARY_FILES)
    return Checkpoint(file, tensors, architecture, str(file.parent) if has_vocabulary else None)


def _tensor_file(path: Path) -> Path:
    """The file to read in a folder: index or Hugging Face name first, else the only checkpoint."""
    if not path.is_dir():
        return path
    for name in (*_INDEXES, *_PREFERRED):
        if (path / name).is_file():
            return path / name
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if len(found) == 1:
        return found[0]
    listed = ", ".join(file.name for file in found) or "none"
    msg = f"{path}: a folder of weights holds model.safetensors or one checkpoint file, found {listed}; name the file"
    raise WeightsError(msg)


def _architecture_beside(file: Path, has_tracker: bool) -> Architecture:
    config, tracker = _read_json(file.parent / CONFIG), _read_json(file.parent / TRACKER_CONFIG)
    if config is None and tracker is None:
        return released_architecture(tracker=has_tracker)
    config = config or {}
    if not has_tracker:
        detector = config.get("detector_config", {}) if config.get("model_type") == "sam3_video" else config
        return architecture_from(detector)
    if tracker is None:
        tracker = config.get("tracker_config", {})
    return architecture_from(config, tracker)


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} is not valid JSON ({error}); repair it, or remove it for the released architecture"
        raise WeightsError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} is not a configuration but a {type(content).__name__}; repair it"
        raise WeightsError(msg)
    return content
