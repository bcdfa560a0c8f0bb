"""LoRA adapters (PEFT folders) merged into the weights they were trained on, by plain arithmetic."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medsam3_core.errors import WeightsError, WeightsMismatchError
from storage.checkpoints.tensor_files import read_tensors

ADAPTER_CONFIG = "adapter_config.json"

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.[^.]+)?\.weight")
_SHOWN = 10


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter folder.

    Attributes:
        config: Its `adapter_config.json`.
        tensors: Its tensors, without the prefix of the base.
        base: Where its base is said to be; None where the folder does not say.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    base: str | None


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter rather than weights."""
    return (path / ADAPTER_CONFIG).is_file()


def read_adapter(folder: Path) -> Adapter:
    """Read a LoRA adapter.

    Raises:
        WeightsError: If it is no readable LoRA adapter (other methods of PEFT and DoRA included).
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{folder / ADAPTER_CONFIG} cannot be read ({error}); write the adapter again"
        raise WeightsError(msg) from error
    if config.get("peft_type", "LORA") != "LORA" or config.get("use_dora"):
        kind = "DoRA" if config.get("use_dora") else config.get("peft_type")
        msg = f"{folder} is a {kind} adapter; only plain LoRA is merged: merge it with peft and give the merged weights"
        raise WeightsError(msg)
    file = next((folder / name for name in _FILES if (folder / name).is_file()), folder / _FILES[0])
    tensors = {key.removeprefix(_PREFIX): tensor for key, tensor in read_tensors(file).items()}
    return Adapter(folder, config, tensors, config.get("base_model_name_or_path") or None)


def merge(adapter: Adapter, base: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add an adapter to the tensors of its base (`Sam3Model` names); merged tensors are float32.

    Raises:
        WeightsMismatchError: If a tensor of the adapter belongs to no tensor of the base; names the first ten.
    """
    merged = dict(base)
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    strays: list[str] = []
    for key, tensor in adapter.tensors.items():
        if match := _KEY.fullmatch(key):
            pairs.setdefault(match["module"], {})[match["side"]] = tensor
        elif _replaced(key) in base:  # modules_to_save and trained biases come whole
            merged[_replaced(key)] = tensor
        else:
            strays.append(key)
    for module, sides in pairs.items():
        weight = base.get(f"{module}.weight")
        if weight is None or set(sides) != {"A", "B"} or not _fits(weight, sides):
            strays.append(module)
            continue
        update = sides["B"].float() @ sides["A"].float()
        update = update.T if adapter.config.get("fan_in_fan_out") else update
        merged[f"{module}.weight"] = weight.float() + _scaling(adapter.config, module, sides["A"].shape[0]) * update
    _refuse(strays, adapter)
    return merged


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = _by_pattern(config.get("alpha_pattern") or {}, module, config.get("lora_alpha", rank))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """PEFT's rule: a pattern matches a module whose name it ends, from a dot on."""
    return next((value for name, value in patterns.items() if re.fullmatch(rf"(.*\.)?({name})", module)), default)


def _fits(weight: torch.Tensor, sides: Mapping[str, torch.Tensor]) -> bool:
    rank_in, rank_out = sides["A"].shape[0], sides["B"].shape[-1]
    return weight.ndim == 2 and rank_in == rank_out and weight.numel() == sides["B"].shape[0] * sides["A"].shape[1]


def _replaced(key: str) -> str:
    return key.replace(".modules_to_save.default.", ".").replace(".base_layer.", ".")


def _refuse(strays: list[str], adapter: Adapter) -> None:
    if not strays:
        return
    first = "\n  ".join(sorted(strays)[:_SHOWN])
    msg = (
        f"{adapter.folder}: {len(strays)} tensors of the adapter fit nothing in its base:\n  {first}\n"
        "Name the base that it was trained on; adapters are expected on the names of transformers' Sam3Model"
    )
    raise WeightsMismatchError(msg)
