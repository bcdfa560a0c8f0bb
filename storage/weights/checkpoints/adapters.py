"""LoRA adapters (PEFT folders), merged into their base weights."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medsam3_core.errors import WeightsError, WeightsMismatchError
from medsam3_core.sam3.keys.key_rules import to_transformers, translate
from medsam3_core.sam3.keys.key_table import Op
from medsam3_core.sam3.keys.layouts import Layout, Part, place_keys
from medsam3_core.sam3.keys.match import RULES
from storage.weights.checkpoints.hub import SCHEME
from storage.weights.checkpoints.tensor_files import read_tensors

ADAPTER_CONFIG = "adapter_config.json"

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.[^.]+)?\.weight")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_SHOWN = 10
_PLAIN_STARTS = (None, True, False, "true", "false", "gaussian")
"""Values of `init_lora_weights` that do not change the base; others (PiSSA, OLoRA, ...) do."""

Parts = Mapping[Part, Mapping[str, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter folder.

    Attributes:
        config: Content of `adapter_config.json`.
        tensors: Tensors, without the prefix of the base.
        base: Location of the base according to the configuration; None if it names none.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    base: str | None


def is_adapter(path: Path) -> bool:
    """True if a folder, or the tensor file in it, holds an adapter rather than whole weights."""
    return (_folder(path) / ADAPTER_CONFIG).is_file()


def read_adapter(path: Path) -> Adapter:
    """Read a LoRA adapter: its folder, or the file of tensors in it.

    Raises:
        WeightsError: If it is not a readable LoRA adapter; DoRA and other PEFT methods are refused.
    """
    folder = _folder(path)
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{folder / ADAPTER_CONFIG} cannot be read ({error}); write the adapter again"
        raise WeightsError(msg) from error
    if config.get("peft_type", "LORA") != "LORA" or config.get("use_dora"):
        kind = "DoRA" if config.get("use_dora") else config.get("peft_type")
        msg = f"{folder} is a {kind} adapter; only plain LoRA is merged: merge it with peft and give the merged weights"
        raise WeightsError(msg)
    if (start := config.get("init_lora_weights")) not in _PLAIN_STARTS or config.get("use_qalora"):
        kind = "QALoRA" if config.get("use_qalora") else f"LoRA adapter that starts as {start!r}"
        msg = f"{folder} is a {kind}, which belongs to a changed base; merge it with peft and give the merged weights"
        raise WeightsError(msg)
    file = next((folder / name for name in _FILES if (folder / name).is_file()), folder / _FILES[0])
    tensors = {key.removeprefix(_PREFIX): tensor for key, tensor in read_tensors(file).items()}
    return Adapter(folder, config, tensors, config.get("base_model_name_or_path") or None)


def _folder(path: Path) -> Path:
    return path.parent if path.name in _FILES else path


def base_location(adapter: Adapter, said: str) -> str:
    """Location of the base of an adapter: a path, a path relative to the adapter, or a repository of the hub.

    Raises:
        WeightsError: If `said` is none of them.
    """
    if said.startswith(SCHEME):
        return said
    for path in (Path(said), adapter.folder / said):
        if path.exists():
            return str(path.absolute())
    if _REPOSITORY.fullmatch(said):
        return f"{SCHEME}{said}"
    msg = f"{adapter.folder} is a LoRA adapter on {said}, which was not found; name its weights with --base NAME|PATH"
    raise WeightsError(msg)


def merge(adapter: Adapter, base: Parts) -> dict[Part, dict[str, torch.Tensor]]:
    """Add an adapter to the tensors of its base (`transformers` names per part); merged tensors are float32.

    An adapter may use the module names of `transformers` or of the official code, packed projections included: the
    conversion from official to `transformers` tensors is linear, so it applies to updates as well.

    Raises:
        WeightsMismatchError: If a tensor of the adapter fits no tensor of the base; names the first ten.
    """
    merged = {part: dict(named) for part, named in base.items()}
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    strays: list[str] = []
    for key, tensor in adapter.tensors.items():
        if match := _KEY.fullmatch(key):
            pairs.setdefault(_plain(match["module"]), {})[match["side"]] = tensor
        elif found := _placed(_plain(key), tensor, base):  # modules_to_save and trained biases come whole
            for part, name, whole in found:
                merged[part][name] = whole
        else:
            strays.append(key)
    for module, sides in pairs.items():
        found = _updates(adapter.config, module, sides, base)
        if not found:
            strays.append(module)
        for part, name, update in found:
            merged[part][name] = base[part][name].float() + update
    _refuse(strays, adapter)
    return merged


def _updates(
    config: Mapping[str, Any], module: str, sides: Mapping[str, torch.Tensor], base: Parts
) -> list[tuple[Part, str, torch.Tensor]]:
    """Updates of base tensors by one pair of matrices; empty if it fits none."""
    if set(sides) != {"A", "B"} or sides["A"].ndim != 2 or sides["A"].shape[0] != sides["B"].shape[-1]:
        return []
    update = sides["B"].float() @ sides["A"].float()
    update = _scaling(config, module, sides["A"].shape[0]) * (update.T if config.get("fan_in_fan_out") else update)
    names = (f"{module}.weight", f"{module}.in_proj_weight")
    return next((found for name in names if (found := _placed(name, update, base))), [])


def _placed(key: str, tensor: torch.Tensor, base: Parts) -> list[tuple[Part, str, torch.Tensor]]:
    """A tensor of any layout as tensors of the base; empty if a name or shape does not fit."""
    for layout in (Layout.HUGGING_FACE, Layout.BARE, Layout.RELEASED):
        (placed,) = place_keys([key], layout)
        part = placed.part
        if part is None or part not in base:
            continue
        named = {placed.name: tensor}
        if layout is not Layout.HUGGING_FACE:
            translation = translate(placed.name, RULES[part])
            if translation is None or translation.rule.op is Op.JOIN:
                continue
            named = to_transformers(named, RULES[part])
        own = base[part]
        if all(name in own and own[name].shape == one.shape for name, one in named.items()):
            return [(part, name, one) for name, one in named.items()]
    return []


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = _by_pattern(config.get("alpha_pattern") or {}, module, config.get("lora_alpha", rank))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that matches a module's name, or its end after a dot, as in PEFT."""
    return next((value for name, value in patterns.items() if re.fullmatch(rf"(.*\.)?({name})", module)), default)


def _plain(key: str) -> str:
    """A name without PEFT's infixes between module and tensor."""
    return key.replace(".modules_to_save.default.", ".").replace(".base_layer.", ".")


def _refuse(strays: list[str], adapter: Adapter) -> None:
    if not strays:
        return
    first = "\n  ".join(sorted(strays)[:_SHOWN])
    msg = (
        f"{adapter.folder}: {len(strays)} tensors of the adapter fit nothing in its base:\n  {first}\n"
        "Give the base that it was trained on; module names are those of transformers or of the official code"
    )
    raise WeightsMismatchError(msg)
