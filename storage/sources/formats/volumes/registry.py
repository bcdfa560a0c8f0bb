"""All volume formats, found by their modules, and functions that read a file of any of them."""

import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path

from medsam3_core.cases.geometry import VolumeGeometry
from storage.sources.formats import volumes
from storage.sources.formats.volumes.format import Volume, VolumeFormat
from storage.sources.listing.files import read_range

_FIRST_BYTES = 4096


def _found() -> tuple[VolumeFormat, ...]:
    names = sorted(module.name for module in pkgutil.iter_modules(volumes.__path__) if module.name != "registry")
    modules = (importlib.import_module(f"{volumes.__name__}.{name}") for name in names)
    return tuple(module.FORMAT for module in modules if hasattr(module, "FORMAT"))


VOLUME_FORMATS = _found()
"""In order of their modules."""
VOLUME_SUFFIXES = tuple(suffix for known in VOLUME_FORMATS for suffix in known.suffixes)


def is_volume(name: str) -> bool:
    """True if the file name ends like that of a volume."""
    return name.lower().endswith(VOLUME_SUFFIXES)


def suffixes_in(files: Iterable[str]) -> tuple[str, ...]:
    """Suffixes of the formats that occur among files, so that patterns made of them do not change with new formats."""
    named = [name.lower() for name in files]
    present = (known for known in VOLUME_FORMATS if any(name.endswith(known.suffixes) for name in named))
    return tuple(suffix for known in present for suffix in known.suffixes)


def read_volume(path: Path, *, channel: int | None = None) -> Volume:
    """Read a file by the format of its name; `channel` chooses one of several volumes.

    Raises:
        CaseDataError: If the file is missing or damaged, its voxels are not scalar, or no channel of several is chosen.
    """
    return _format_of(path).read(path, channel)


def slice_size(path: Path) -> tuple[int, int] | None:
    """Width and height of a slice from the header; None if it cannot be read."""
    return _format_of(path).size_xy(path)


def volume_geometry(path: Path) -> VolumeGeometry | None:
    """Shape and position from the first bytes of a file; None if they do not give three dimensions."""
    try:
        first, _ = read_range(path, 0, _FIRST_BYTES)
    except OSError:
        return None
    return _format_of(path).geometry(first)


def _format_of(path: Path) -> VolumeFormat:
    return next(known for known in VOLUME_FORMATS if path.name.lower().endswith(known.suffixes))
