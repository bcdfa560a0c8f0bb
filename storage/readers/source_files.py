"""What lies in a source folder, as relative paths in sorted order."""

import gzip
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from medsam3_core.errors import CaseDataError

_PLAIN_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
IMAGE_SUFFIXES = (*_PLAIN_IMAGES, *(f"{suffix}.gz" for suffix in (".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".bmp")))
ARRAY_SUFFIXES = (".npz", ".npy.h5", ".npy", ".h5", ".hdf5", ".mat")
NIFTI_SUFFIXES = (".nii.gz", ".nii")

_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


def visible_files(source: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Files below `source` that end in a suffix (case ignored): relative paths with `/`, sorted.

    Hidden files and folders and what systems leave behind (`.DS_Store`, `._a.png`, `Thumbs.db`) are not listed.
    Linked folders are followed, except to a folder that they lie in.
    """
    found: list[str] = []
    for folder, subfolders, names in os.walk(source, followlinks=True):
        subfolders[:] = [name for name in subfolders if is_visible(name) and not _leads_back(Path(folder, name))]
        parent = Path(folder).relative_to(source).as_posix()
        prefix = "" if parent == "." else f"{parent}/"
        found += [prefix + name for name in names if name.lower().endswith(suffixes) and is_visible(name)]
    return sorted(found)


def without_companions(files: list[str], companions: tuple[str, ...]) -> list[str]:
    """Files that no pattern of a recipe's companions matches whole (case ignored)."""
    patterns = [re.compile(pattern, re.IGNORECASE) for pattern in companions]
    return [name for name in files if not any(pattern.fullmatch(name) for pattern in patterns)]


def without_suffix(name: str, suffixes: tuple[str, ...]) -> str:
    """A file name or path without its suffix; unchanged if it ends in none of them."""
    for suffix in suffixes:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


@contextmanager
def naming(*culprits: Path | str) -> Iterator[None]:
    """Put the names of the files at hand in front of every `CaseDataError` that is raised inside."""
    try:
        yield
    except CaseDataError as error:
        msg = f"{', '.join(str(culprit) for culprit in culprits)}: {error}"
        raise type(error)(msg) from error


def open_source(path: Path) -> IO[bytes]:
    """A source file for reading; `.gz` is unpacked on the way.

    Raises:
        OSError: If it cannot be opened.
    """
    if path.name.lower().endswith(".gz"):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def _leads_back(folder: Path) -> bool:
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def is_visible(name: str) -> bool:
    """Whether a file or folder is one that people put there, by its name."""
    return not name.startswith(".") and name.lower() not in _SYSTEM_FILES
