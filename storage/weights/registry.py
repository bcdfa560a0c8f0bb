"""Weights by name: the registry, the built-in baselines and small SAM3 weights, and their segmenters.

`NAME` is the latest version, `NAME@N` a version. Identity is the SHA-256 of the tensors' file or folder; every score
row carries it. `storage.weights.checkpoints` is imported only to read tensors: torch and transformers take seven
seconds that planning, SQL and baselines do not need.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from medsam3_core.capabilities import Capabilities
from medsam3_core.errors import UsageError, WeightsError
from medsam3_core.inference.baselines import BASELINES
from medsam3_core.inference.protocol import Segmenter
from medsam3_core.public_weights import public_names
from storage.store.atomic import read_json, replacing, write_json
from storage.store.layout import StoreLayout, check_name
from storage.store.locks import holding
from storage.weights.shipped import FACTS, shipped_checkpoint, shipped_folder, shipped_names
from storage.weights.weights import HUB, Weights

UNTRAINED = "tiny-untrained"
_BUILT_IN = (*BASELINES, UNTRAINED, *shipped_names())
DEVICE_VARIABLE = "MEDSAM3_DEVICE"


def list_weights(store: StoreLayout) -> list[Weights]:
    """Every version in the registry, built-in ones first, then by name and version."""
    return [*(_built_in(store, name) for name in _BUILT_IN), *registered_weights(store)]


def find_weights(store: StoreLayout, text: str) -> Weights:
    """Weights by `NAME` or `NAME@N`.

    Raises:
        UsageError: If the name or version is unknown; lists the known names.
    """
    name, _, version = text.partition("@")
    versions = [_built_in(store, name)] if name in _BUILT_IN else []
    versions += [item for item in registered_weights(store) if item.name == name]
    if version:
        versions = [item for item in versions if str(item.version) == version]
    if not versions:
        known = ", ".join(sorted({*_BUILT_IN, *(item.name for item in registered_weights(store))}))
        msg = f"unknown weights {text!r}; known: {known}; add some with: medsam3 weights add NAME PATH"
        raise UsageError(msg)
    return max(versions, key=lambda item: item.version)


def is_location(store: StoreLayout, text: str) -> bool:
    """True if a text is a file, a folder or an `hf://` location rather than a name of the registry."""
    if text.startswith(HUB):
        return True
    name = text.partition("@")[0]
    if name in _BUILT_IN or any(item.name == name for item in registered_weights(store)):
        return False
    return "/" in text or Path(text).exists()


def add_weights(
    store: StoreLayout, name: str, location: Path | str, *, licence: str = "", base: str | None = None
) -> Weights:
    """Register weights: check every tensor and value, compute the digest, assign the next version of the name.

    Registering the newest version again returns it unchanged.

    Args:
        store: The store.
        name: Name in the registry.
        location: File, folder or `hf://` location; the commit of a repository is kept with it.
        licence: Licence note; by default from the model card or licence file beside the weights.
        base: Name or location of the base of an adapter; by default the one that the adapter names.

    Raises:
        UsageError: If the name is built in or invalid.
        WeightsMismatchError: If a tensor does not match.
        WeightsError: If the path holds no readable checkpoint, or a tensor is not finite.
    """
    require_free_name(name)
    inspected = inspect_weights(store, name, location, base)
    return register_weights(store, replace(inspected, note=licence or inspected.note))


def require_free_name(name: str) -> None:
    """Refuse names that cannot be given to weights.

    Raises:
        UsageError: If the name is invalid, or belongs to built-in weights.
    """
    if check_name("weights", name) in _BUILT_IN or name.startswith("tiny-"):
        msg = f"weights name {name!r} is built in; choose another"
        raise UsageError(msg)


def register_weights(store: StoreLayout, inspected: Weights) -> Weights:
    """Assign inspected weights the next version of their name, unless they are its newest version already."""
    with holding(store.registry_lock(), "the weights registry is being written", wait=True):
        registered = registered_weights(store)
        same_name = sorted((item for item in registered if item.name == inspected.name), key=lambda item: item.version)
        if same_name and same_name[-1].sha256 == inspected.sha256:
            return same_name[-1]
        version = 1 + (same_name[-1].version if same_name else 0)
        added_at = datetime.now(UTC).isoformat(timespec="seconds")
        added = replace(inspected, version=version, added_at=added_at, parents=_ancestors(registered, inspected))
        write_json(store.registry_json(), {"weights": [asdict(item) for item in (*registered, added)]})
        return added


def _ancestors(registered: Sequence[Weights], inspected: Weights) -> tuple[str, ...]:
    """Ancestors of weights, nearest first: parents or the base of an adapter, public names, and their own parents."""
    found = list(inspected.parents)
    for known in registered:
        digests = {parent.rpartition(":")[2] for parent in inspected.parents}
        if known.sha256 in digests or (known.path is not None and known.path == inspected.base):
            names = sorted({known.name} | public_names(known.sha256, known.source, known.name))
            found += [f"{name}@{known.version}:{known.sha256}" for name in names] + list(known.parents)
    return tuple(dict.fromkeys(found))


def inspect_weights(store: StoreLayout, name: str, location: Path | str, base: str | None = None) -> Weights:
    """Inspect a checkpoint without registering it; fails as `add_weights` does."""
    from storage.weights.inspection import inspect_location

    if not is_location(store, str(location)):
        msg = f"no weights at {location}; give a checkpoint file, a Hugging Face folder or hf://owner/name"
        raise WeightsError(msg)
    return inspect_location(name, str(location), _base_location(store, base), partial(_named_location, store))


def load_unregistered(store: StoreLayout, location: str, device: str) -> Segmenter:
    """The segmenter of a file, a folder or an `hf://` location.

    Raises:
        WeightsError: If it does not load.
    """
    from storage.weights.checkpoints import open_segmenter
    from storage.weights.inspection import adapter_base

    return open_segmenter(location, device, base=adapter_base(location, None, partial(_named_location, store)))


def check_registered(store: StoreLayout, text: str, base: str | None = None) -> Weights:
    """Check weights by name or location again, tensor by tensor and value by value.

    Raises:
        UsageError: If the name is unknown.
        WeightsError: If they are missing, incomplete, or have changed since they were registered.
    """
    if is_location(store, text):
        return inspect_weights(store, Path(text).name, text, base)
    found = find_weights(store, text)
    require_unchanged(found)
    if found.path is None:
        return found
    seen = inspect_weights(store, found.name, found.path, found.base)
    checked = ("matched", "dropped", "drop_reasons", "resolutions")
    return replace(found, **{name: getattr(seen, name) for name in checked})


def default_device() -> str:
    """Default device of weights: `$MEDSAM3_DEVICE`, else the first GPU, else the CPU."""
    import torch

    return os.environ.get(DEVICE_VARIABLE, "cuda:0" if torch.cuda.is_available() else "cpu")


def load_segmenter(weights: Weights, device: str) -> Segmenter:
    """The segmenter of registered weights.

    Raises:
        WeightsError: If the file is missing, has changed since it was registered, or does not load.
    """
    if weights.path is None:
        return BASELINES[weights.name]
    from storage.weights.checkpoints import open_segmenter

    require_unchanged(weights)
    return open_segmenter(weights.path, device, base=weights.base)


def require_unchanged(weights: Weights) -> None:
    """Compare the file or folder of weights with its digest in the registry.

    Raises:
        WeightsError: If it is missing or has changed; baselines have no file and always pass.
    """
    if weights.path is None:
        return
    from storage.weights.checkpoints import weights_sha256

    named = f"{weights.name}@{weights.version}"
    for path in filter(None, (weights.path, weights.base)):
        if not Path(path).exists():
            msg = f"{path} of {named} is missing; restore it or register other weights with: medsam3 weights add"
            raise WeightsError(msg)
    digest = weights_sha256(Path(weights.path), Path(weights.base) if weights.base else None)
    if digest != weights.sha256:
        msg = (
            f"{weights.path} has changed since {named} was registered (sha256 {digest[:12]}, "
            f"was {weights.sha256[:12]}); register it again with: medsam3 weights add {weights.name} {weights.path}"
        )
        raise WeightsError(msg)


def registered_weights(store: StoreLayout) -> list[Weights]:
    """Every version in the registry without built-in ones, in order of registration."""
    if not store.registry_json().exists():
        return []
    return [_from_json(item) for item in read_json(store.registry_json())["weights"]]


def _from_json(value: Mapping[str, Any]) -> Weights:
    tuples = {name: tuple(value.get(name, ())) for name in ("resolutions", "drop_reasons", "parents")}
    return Weights(**{**value, **tuples, "capabilities": Capabilities(**value["capabilities"])})


def _base_location(store: StoreLayout, base: str | None) -> str | None:
    if base is None or is_location(store, base):
        return base
    found = find_weights(store, base)
    if found.path is None:
        msg = f"{base} has no tensors to merge an adapter into; name SAM3 weights"
        raise UsageError(msg)
    return found.path


def _named_location(store: StoreLayout, said: str) -> str:
    """The base that an adapter names; a name of the registry is replaced by the location of those weights."""
    try:
        return find_weights(store, said).path or said
    except UsageError:
        return said


def _built_in(store: StoreLayout, name: str) -> Weights:
    if name in BASELINES:
        baseline = BASELINES[name]
        note = "needs no weights: what the prompt alone is worth"
        return Weights(name, baseline.version, baseline.digest, None, "baseline", baseline.capabilities, note=note)
    if name in shipped_names():
        facts = _from_json(read_json(shipped_folder(name) / FACTS))
        return replace(facts, path=str(shipped_checkpoint(name).resolve()))
    folder, untrained = store.built_in_weights(name)
    if not untrained.exists():
        from storage.weights.checkpoints import write_untrained
        from storage.weights.inspection import inspect_location

        with replacing(folder) as scratch:
            write_untrained(scratch)
        note = "seeded and untrained: it exercises the model path, its scores mean nothing"
        write_json(untrained, asdict(replace(inspect_location(name, str(folder)), note=note)))
    return replace(_from_json(read_json(untrained)), path=str(folder.resolve()))
