"""Inspection of checkpoints, tensor by tensor and value by value; imports torch and transformers."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from medsam3_core.capabilities import Capabilities
from medsam3_core.errors import WeightsError
from medsam3_core.sam3.network.network import require_finite
from storage.weights.checkpoints import read_weights, resolve, weights_sha256
from storage.weights.checkpoints.adapters import base_location, is_adapter, read_adapter
from storage.weights.checkpoints.hub import SCHEME
from storage.weights.checkpoints.identity import licence_beside
from storage.weights.weights import Weights

Locate = Callable[[str], str]

_SNAPSHOTS = "snapshots"
"""Folder of a Hugging Face cache whose entries are named after commits."""


def inspect_location(name: str, location: str, base: str | None = None, locate: Locate = str) -> Weights:
    """Version 1 of new weights, with every fact that the registry keeps.

    Args:
        name: Name in the registry.
        location: File, folder or `hf://` location.
        base: Location of the base of an adapter; by default the one that the adapter names.
        locate: Turns the base that an adapter names into a location.

    Raises:
        WeightsMismatchError: If a tensor does not match.
        WeightsError: If it cannot be read, or a tensor is not finite.
    """
    path = resolve(location).absolute()  # links are kept: a Hugging Face cache links names to nameless blobs
    if not path.exists():
        msg = f"no weights at {location}; give a checkpoint file, a Hugging Face folder or hf://owner/name"
        raise WeightsError(msg)
    if is_adapter(path):
        path = read_adapter(path).folder  # the configuration counts too
    found = adapter_base(location, base, locate)
    base_path = None if found is None else Path(found)
    weights = read_weights(path, base_path)
    require_finite(weights)
    report = weights.report
    reasons = Counter(report.dropped.values())
    return Weights(
        name=name,
        version=1,
        sha256=weights_sha256(path, base_path),
        path=str(path),
        layout=str(report.layout),
        capabilities=Capabilities(text=True, box=True, interactive=weights.interactive, propagation=weights.propagates),
        parameters=report.parameters,
        note=licence_beside(path),
        source=location,
        revision=_revision(location, path),
        base=None if base_path is None else str(base_path),
        matched=len(report.matched),
        dropped=len(report.dropped),
        drop_reasons=tuple(f"{count} {reason}" for reason, count in reasons.most_common()),
        resolutions=weights.architecture.resolutions,
    )


def adapter_base(location: str, base: str | None, locate: Locate) -> str | None:
    """Location of the base of an adapter; None for whole weights. Arguments as in `inspect_location`.

    Raises:
        WeightsError: If whole weights are given a base, or the base of an adapter is not found.
    """
    path = resolve(location)
    if not is_adapter(path):
        if base is not None:
            msg = f"{path} holds whole weights, not a LoRA adapter; leave out --base"
            raise WeightsError(msg)
        return None
    adapter = read_adapter(path)
    found = base or (locate(adapter.base) if adapter.base else None)
    if found is None:
        msg = f"{path} is a LoRA adapter without a base; name its weights with --base NAME|PATH"
        raise WeightsError(msg)
    return str(resolve(base_location(adapter, found)).absolute())


def _revision(location: str, path: Path) -> str:
    parts = path.parts
    if not location.startswith(SCHEME) or _SNAPSHOTS not in parts[:-1]:
        return ""
    return parts[len(parts) - 1 - parts[::-1].index(_SNAPSHOTS) + 1]
