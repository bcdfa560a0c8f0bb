"""State dicts in files: tensors only, memory-mapped; pickled code is never run."""

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.serialization import get_unsafe_globals_in_checkpoint

from medsam3_core.errors import WeightsError

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
SAFETENSORS = ".safetensors"
SUFFIXES = (SAFETENSORS, *PICKLED)

_NESTS = ("model", "state_dict", "model_state_dict", "module")
_REMEDY = "fetch it again, or save it again as safetensors"


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the state dict of one file, or of all the files that a shard index names.

    Raises:
        WeightsError: If the file is missing, truncated, of another format, or holds anything but tensors.
    """
    if not path.is_file():
        msg = f"{path}: no such checkpoint; give a .pt, .pth, .bin, .ckpt or .safetensors file or a Hugging Face folder"
        raise WeightsError(msg)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    if path.suffix in PICKLED:
        return _read_pickled(path)
    msg = f"{path}: a {path.suffix or 'file without suffix'} is not a checkpoint; known are {', '.join(SUFFIXES)}"
    raise WeightsError(msg)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # safe_open is no mapping
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        msg = f"{path}: not a readable safetensors file ({_first_line(error)}); it is truncated or foreign: {_REMEDY}"
        raise WeightsError(msg) from error


def _read_pickled(path: Path) -> dict[str, torch.Tensor]:
    mapped = zipfile.is_zipfile(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        msg = (
            f"{path}: holds pickled objects other than tensors{_foreign(path)}, or is no checkpoint; pickled code is "
            "never run. Save the state dict alone, best as safetensors"
        )
        raise WeightsError(msg) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        msg = f"{path}: not a readable checkpoint ({_first_line(error)}); it is truncated or foreign: {_REMEDY}"
        raise WeightsError(msg) from error
    return _state_dict(content, path)


def _foreign(path: Path) -> str:
    """Names of pickled objects, read without running them; empty if unknown."""
    try:
        names = sorted(get_unsafe_globals_in_checkpoint(path))
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError, pickle.UnpicklingError):
        return ""
    return f" ({', '.join(names[:5])})" if names else ""


def _state_dict(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """Find the state dict, nested or not; a nested dict is preferred to tensors beside it, such as counters."""
    found: Any = type(content)
    while isinstance(content, Mapping):
        nested = next((content[name] for name in _NESTS if isinstance(content.get(name), Mapping)), None)
        if nested is not None:
            content = nested
            continue
        if tensors := {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}:
            return tensors
        found = f"a mapping with the keys {[str(key) for key in content][:5]}"
        break
    msg = f"{path}: holds no state dict but {found}; give the file with the tensors, as a dict or under 'model'"
    raise WeightsError(msg)


def _read_shards(index: Path) -> dict[str, torch.Tensor]:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{index}: not a shard index ({_first_line(error)}); {_REMEDY}"
        raise WeightsError(msg) from error
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard:
            msg = f"{index}: shard {shard!r} is outside the folder; {_REMEDY}"
            raise WeightsError(msg)
        tensors |= read_tensors(index.parent / shard)
    return tensors


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
