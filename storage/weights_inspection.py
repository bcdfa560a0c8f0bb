"""What a checkpoint is: matched tensor by tensor and looked at value by value; brings torch and transformers."""

from pathlib import Path

from medsam3_core.errors import WeightsError
from medsam3_core.sam3.network import require_finite
from medsam3_core.segmenters.protocol import Capabilities
from storage.checkpoints import read_weights, resolve, weights_sha256
from storage.checkpoints.adapters import is_adapter, read_adapter
from storage.checkpoints.hub import SCHEME
from storage.weights import Weights

_SNAPSHOTS = "snapshots"
"""Folder of a Hugging Face cache whose entries are named after commits."""


def inspect_location(name: str, location: str, base: str | None = None) -> Weights:
    """Version 1 of some weights to be, with every fact that the registry keeps.

    Args:
        name: Name to be.
        location: File, folder or `hf://` location.
        base: Location of the weights that an adapter belongs to; by default what the adapter says.

    Raises:
        WeightsMismatchError: If anything but every tensor matches.
        WeightsError: If it cannot be read, or a tensor is not finite.
    """
    path = resolve(location).absolute()  # links are kept: a Hugging Face cache links names to nameless blobs
    if not path.exists():
        msg = f"no weights at {location}; give a checkpoint file, a Hugging Face folder or hf://owner/name"
        raise WeightsError(msg)
    base_path = _base_of(path, base)
    weights = read_weights(path, base_path)
    require_finite(weights)
    report = weights.report
    return Weights(
        name=name,
        version=1,
        sha256=weights_sha256(path, base_path),
        path=str(path),
        layout=str(report.layout),
        capabilities=Capabilities(
            text=True, box=True, interactive=weights.interactive, propagation=weights.interactive
        ),
        parameters=report.parameters,
        source=location,
        revision=_revision(location, path),
        base=None if base_path is None else str(base_path),
        matched=len(report.matched),
        dropped=len(report.dropped),
        resolutions=weights.architecture.resolutions,
    )


def _base_of(path: Path, base: str | None) -> Path | None:
    """Where the base of an adapter lies; None for whole weights, which take none."""
    if not is_adapter(path):
        if base is not None:
            msg = f"{path} is no LoRA adapter but whole weights; leave out --base"
            raise WeightsError(msg)
        return None
    said = base or read_adapter(path).base
    if said is None:
        msg = f"{path} is a LoRA adapter and does not say on what; name its weights with --base NAME|PATH"
        raise WeightsError(msg)
    found = resolve(said).absolute()
    if not found.exists():
        msg = f"{path} is a LoRA adapter on {said}, which is not here; name its weights with --base NAME|PATH"
        raise WeightsError(msg)
    return found


def _revision(location: str, path: Path) -> str:
    parts = path.parts
    if not location.startswith(SCHEME) or _SNAPSHOTS not in parts[:-1]:
        return ""
    return parts[len(parts) - 1 - parts[::-1].index(_SNAPSHOTS) + 1]
