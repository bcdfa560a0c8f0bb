"""What lies in a source folder, as relative paths in sorted order."""

import gzip
import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from medsam3_core.errors import CaseDataError

_PLAIN_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
IMAGE_SUFFIXES = (*_PLAIN_IMAGES, *(f"{suffix}.gz" for suffix in (".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".bmp")))
ARRAY_SUFFIXES = (".npz", ".npy.h5", ".npy", ".h5", ".hdf5", ".mat")
NIFTI_SUFFIXES = (".nii.gz", ".nii")

_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A regular file of a source: path relative to it, with `/`; size in bytes; time of its last change in ns."""

    name: str
    size: int
    changed_ns: int


def walk_files(source: Path) -> Iterator[SourceFile]:
    """Every visible regular file below `source`, folder by folder, in no order that means something.

    Hidden files and folders and what systems leave behind (`.DS_Store`, `._a.png`, `Thumbs.db`) are left out, as are
    pipes, sockets and devices, which would block who opens them. Linked folders are followed, but every real folder is
    walked once, so that links in a circle end.
    """
    walked: set[tuple[int, int]] = set()
    waiting, links = [""], deque[str]()  # links last: a folder keeps the name that it has without them
    while waiting or links:
        folder = waiting.pop() if waiting else links.popleft()
        try:
            status = os.stat(source / folder)
            if (status.st_dev, status.st_ino) in walked:
                continue
            walked.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(source / folder), key=lambda entry: entry.name)
        except OSError:
            continue
        subfolders: list[str] = []
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if not is_visible(entry.name):
                continue
            try:
                if entry.is_dir():
                    (links if entry.is_symlink() else subfolders).append(name)
                elif entry.is_file():
                    found = entry.stat()
                    yield SourceFile(name, found.st_size, found.st_mtime_ns)
            except OSError:
                continue
        waiting += reversed(subfolders)


def visible_files(source: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Files below `source` that end in a suffix (case ignored): relative paths with `/`, sorted; see `walk_files`."""
    return sorted(file.name for file in walk_files(source) if file.name.lower().endswith(suffixes))


def read_range(path: Path, start: int, length: int) -> tuple[bytes, int]:
    """Some bytes of a file, fewer where it ends before, and the size of the whole file."""
    with path.open("rb") as handle:
        if start:
            handle.seek(start)
        return handle.read(length), os.fstat(handle.fileno()).st_size


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


def is_visible(name: str) -> bool:
    """Whether a file or folder is one that people put there, by its name."""
    return not name.startswith(".") and name.lower() not in _SYSTEM_FILES
