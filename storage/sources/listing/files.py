"""What lies in a source folder, as relative paths in sorted order."""

import gzip
import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from medsam3_core.errors import CaseDataError
from storage.store.locations import file_system, is_remote, object_key
from storage.store.ranges import read_object_range

_PLAIN_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
IMAGE_SUFFIXES = (*_PLAIN_IMAGES, *(f"{suffix}.gz" for suffix in (".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".bmp")))
ARRAY_SUFFIXES = (".npz", ".npy.h5", ".npy", ".h5", ".hdf5", ".mat")

_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A regular file of a source: path relative to it, with `/`; size in bytes; time of its last change in ns.

    Of an object the last number is made of its ETag, which tells more than a time in whole seconds.
    """

    name: str
    size: int
    changed_ns: int


def walk_files(source: Path) -> Iterator[SourceFile]:
    """Every visible regular file below `source`, folder by folder, in no order that means something.

    Hidden files and folders and what systems leave behind (`.DS_Store`, `._a.png`, `Thumbs.db`) are left out, as are
    pipes, sockets and devices, which would block who opens them. Linked folders are followed, but every real folder is
    walked once, so that links in a circle end.
    """
    if is_remote(source):
        yield from _listed_objects(source).values()
        return
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


_Seen = TypeVar("_Seen")
Listings = dict[tuple[str, Path], Any]
"""What was seen of sources, by the kind of look and the folder."""
_listings: ContextVar[Listings | None] = ContextVar("listings", default=None)


@contextmanager
def listed_once(known: Listings | None = None) -> Iterator[Listings]:
    """Within this block a source is looked through once: many layouts look before one takes it, and that one lists it.

    Args:
        known: What an earlier block has seen, which holds in this one too; None for that of the block around, if any.

    Yields:
        What is seen in this block.
    """
    around = _listings.get()
    if known is None and around is not None:
        yield around
        return
    seen: Listings = {} if known is None else known
    token = _listings.set(seen)
    try:
        yield seen
    finally:
        _listings.reset(token)


def seen_once(kind: str, source: Path, look: Callable[[], _Seen]) -> _Seen:
    """The answer of a look at a source, which within `listed_once` is taken once."""
    known = _listings.get()
    if known is None:
        return look()
    if (kind, source) not in known:
        known[kind, source] = look()
    found: _Seen = known[kind, source]
    return found


def _listed_objects(source: Path) -> Mapping[str, SourceFile]:
    return seen_once("objects", source, lambda: _objects_below(source))


def _objects_below(source: Path) -> Mapping[str, SourceFile]:
    base = object_key(source)
    found: dict[str, SourceFile] = {}
    for key, facts in file_system(source).find(base, detail=True).items():
        name = key.removeprefix(f"{base}/")
        if all(is_visible(part) for part in name.split("/")) and not key.endswith("/"):
            found[name] = SourceFile(name, facts["size"], _stamp(facts))
    return found


def _stamp(facts: Mapping[str, Any]) -> int:
    text = f"{facts.get('ETag', '')} {facts.get('LastModified', '')}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


def stamps_of(source: Path, names: Iterable[str]) -> list[tuple[str, int, int]]:
    """Name, size and time of change of some files of a source; -1 and -1 for those that are not there."""
    if is_remote(source):
        objects = _listed_objects(source)
        found = [(name, objects.get(name)) for name in names]
        return [(name, file.size, file.changed_ns) if file else (name, -1, -1) for name, file in found]
    stamps = []
    for name in names:
        try:
            status = os.stat(os.path.join(source, name))
            stamps.append((name, status.st_size, status.st_mtime_ns))
        except OSError:
            stamps.append((name, -1, -1))
    return stamps


def read_range(path: Path, start: int, length: int) -> tuple[bytes, int]:
    """Some bytes of a file, fewer where it ends before, and the size of the whole file."""
    if is_remote(path):
        return read_object_range(path, start, length)
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
        return cast("IO[bytes]", gzip.open(path.open("rb") if is_remote(path) else path, "rb"))
    return path.open("rb")


def is_visible(name: str) -> bool:
    """Whether a file or folder is one that people put there, by its name."""
    return not name.startswith(".") and name.lower() not in _SYSTEM_FILES
