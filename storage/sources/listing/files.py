"""Files of a source, as relative paths in sorted order."""

import gzip
import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
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

    For objects `changed_ns` is derived from the ETag, because their times have a resolution of one second.
    """

    name: str
    size: int
    changed_ns: int


def walk_files(source: Path) -> Iterator[SourceFile]:
    """Every visible regular file below `source`, folder by folder, in unspecified order.

    Skips hidden files and folders, files of operating systems (`.DS_Store`, `._a.png`, `Thumbs.db`), and pipes, sockets
    and devices, which would block on opening. Follows linked folders, but walks every real folder once, so that
    circular links end.
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
            with suppress(OSError):
                if entry.is_dir():
                    (links if entry.is_symlink() else subfolders).append(name)
                elif entry.is_file():
                    found = entry.stat()
                    yield SourceFile(name, found.st_size, found.st_mtime_ns)
        waiting += reversed(subfolders)


def visible_files(source: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Files below `source` that end in a suffix (case ignored): relative paths with `/`, sorted; see `walk_files`."""
    return sorted(file.name for file in walk_files(source) if file.name.lower().endswith(suffixes))


_Seen = TypeVar("_Seen")
Listings = dict[tuple[str, Path], Any]
"""Cached listings by kind of listing and folder."""
_listings: ContextVar[Listings | None] = ContextVar("listings", default=None)


@contextmanager
def listed_once(known: Listings | None = None) -> Iterator[Listings]:
    """Within this block each listing of a source is made once, although many layouts ask for it.

    Args:
        known: Listings of an earlier block, reused in this one; None: those of the enclosing block, if any.

    Yields:
        The listings made in this block.
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
    """The result of `look`, made once per source within `listed_once`."""
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
            version = f"{facts.get('ETag', '')} {facts.get('LastModified', '')}"
            stamp = int(hashlib.sha256(version.encode()).hexdigest()[:12], 16)
            found[name] = SourceFile(name, facts["size"], stamp)
    return found


def stamps_of(source: Path, names: Iterable[str]) -> list[tuple[str, int, int]]:
    """Name, size and time of change of some files of a source; -1 and -1 for missing files."""
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
    """Bytes of a file from `start`, fewer if it ends before, and the size of the whole file."""
    if is_remote(path):
        return read_object_range(path, start, length)
    with path.open("rb") as handle:
        if start:
            handle.seek(start)
        return handle.read(length), os.fstat(handle.fileno()).st_size


def without_companions(files: list[str], companions: tuple[str, ...]) -> list[str]:
    """Files whose whole path matches no pattern of a recipe's companions (case ignored)."""
    patterns = [re.compile(pattern, re.IGNORECASE) for pattern in companions]
    return [name for name in files if not any(pattern.fullmatch(name) for pattern in patterns)]


def without_suffix(name: str, suffixes: tuple[str, ...]) -> str:
    """A file name or path without the first suffix that matches; unchanged if none does."""
    for suffix in suffixes:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


@contextmanager
def naming(*culprits: Path | str) -> Iterator[None]:
    """Prefix every `CaseDataError` raised inside with the names of the files at hand."""
    try:
        yield
    except CaseDataError as error:
        msg = f"{', '.join(map(str, culprits))}: {error}"
        raise type(error)(msg) from error


def open_source(path: Path) -> IO[bytes]:
    """Open a source file for reading; `.gz` is decompressed.

    Raises:
        OSError: If it cannot be opened.
    """
    if path.name.lower().endswith(".gz"):
        return cast("IO[bytes]", gzip.open(path.open("rb") if is_remote(path) else path, "rb"))
    return path.open("rb")


def is_visible(name: str) -> bool:
    """True if the name of a file or folder is neither hidden nor one that operating systems create."""
    return not name.startswith(".") and name.lower() not in _SYSTEM_FILES
