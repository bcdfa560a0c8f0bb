"""Where things lie: in a folder of this machine, or below `s3://bucket/prefix` of an object store.

Both are paths to the rest of the package: `location` makes one of a text, and what is joined to it stays of its kind.
Credentials, region and endpoint of an object store come from the usual chain (`AWS_*` variables, `~/.aws`, the role of
the machine); nothing of them is kept or passed on. Listings are never cached: several machines write one store.
"""

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from fsspec import AbstractFileSystem
from upath import UPath

from medsam3_core.errors import UsageError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_OPTIONS: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": False}
_SNAPSHOT: dict[str, Any] = {"use_listings_cache": True, "skip_instance_cache": True}
_ROOT_METADATA = "zarr.json"
_FILES_AT_ONCE = 200
"""Objects that are fetched in one go: enough to hide the latency, few enough to fit into memory."""


def location(text: Path | str) -> Path:
    """A folder, or the path of an object store.

    Raises:
        UsageError: If it names another kind of store than `s3://`, or no bucket; says which are known.
    """
    if isinstance(text, UPath):
        return cast("Path", text)
    found = _SCHEME.fullmatch(str(text))  # also `s3:/bucket`, which is what `Path` makes of it
    if found is None:
        return Path(text)
    scheme, rest = found.groups()
    bucket = rest.partition("/")[0]
    if scheme.lower() != "s3" or not _BUCKET.fullmatch(bucket):
        msg = f"{text} is neither a folder nor s3://BUCKET/PREFIX; other stores are not supported"
        raise UsageError(msg)
    return cast("Path", UPath(f"s3://{rest.rstrip('/')}", **_OPTIONS))


def is_remote(path: Path) -> bool:
    """Whether a path lies in an object store: no rename, no lock, no folder that is empty."""
    return isinstance(path, UPath)


def file_system(path: Path) -> AbstractFileSystem:
    """The client of the object store that a remote path lies in."""
    return cast("UPath", path).fs


def snapshot_of(root: Path) -> Path:
    """The same place for one question: an object store then lists each folder once. A folder is what it is."""
    return cast("Path", UPath(str(root), **_OPTIONS | _SNAPSHOT)) if is_remote(root) else root


def connection_errors() -> tuple[type[Exception], ...]:
    """What a client raises, beside `OSError`, where it has no credentials or finds no server."""
    from botocore.exceptions import BotoCoreError  # a tenth of a second that stores in folders need not pay

    return (BotoCoreError,)


def object_key(path: Path) -> str:
    """A remote path as its client wants it: bucket and key, without `s3://`."""
    return str(cast("UPath", path).path)


def absolute(text: Path | str) -> str:
    """A location as it is recorded: absolute, links resolved; an object store as it was given."""
    return str(location(text).resolve())


def cache_folder(root: Path) -> Path:
    """Folder of this machine for what belongs to a remote store and need not be shared: its catalog, its caches."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "medsam3" / "stores" / hashlib.sha256(str(root).encode()).hexdigest()[:16]


def read_contents(paths: Sequence[Path]) -> Iterator[bytes]:
    """The bytes of some files, in order; of an object store many at a time."""
    for start in range(0, len(paths), _FILES_AT_ONCE):
        chunk = paths[start : start + _FILES_AT_ONCE]
        if not is_remote(chunk[0]):
            yield from (path.read_bytes() for path in chunk)
            continue
        found = file_system(chunk[0]).cat([object_key(path) for path in chunk])
        if isinstance(found, bytes):  # of a single file
            yield found
        else:
            yield from (found[object_key(path)] for path in chunk)


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """A file for libraries that want one of this machine: itself, or a copy for the length of the block.

    Raises:
        FileNotFoundError: If the object is not there.
    """
    with local_copies(path.parent, [path.name]) as folder:
        yield folder / path.name


@contextmanager
def local_copies(root: Path, names: Iterable[str], *, missing_ok: bool = False) -> Iterator[Path]:
    """A folder that holds these files of `root`: `root` itself, or copies for the length of the block.

    Args:
        root: Folder or prefix.
        names: Files, relative to it.
        missing_ok: Whether objects that are not there are left out, for who will miss them in its own words.

    Raises:
        FileNotFoundError: If one of the objects is not there; names it.
    """
    if not is_remote(root):
        yield root
        return
    wanted = list(dict.fromkeys(names))
    with tempfile.TemporaryDirectory(prefix="medsam3-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        for name in wanted:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            _fetch(root, wanted, folder)
        except FileNotFoundError as error:
            if not missing_ok:
                raise FileNotFoundError(errno.ENOENT, "no such object", f"{root}: {error.args[-1]}") from error
            _fetch(root, [name for name in wanted if (root / name).exists()], folder)
        yield folder


def _fetch(root: Path, names: Sequence[str], folder: Path) -> None:
    if names:
        file_system(root).get([object_key(root / name) for name in names], [str(folder / name) for name in names])


def upload(scratch: Path, target: Path) -> None:
    """Put a finished file or folder of this machine under its final name in an object store.

    One file is one request (or a multi-part upload that is completed by one): nobody ever sees half of it. The files of
    a folder appear one by one, and the one that makes it a whole comes last: the metadata of the root of a Zarr group,
    which goes first where an older group is replaced.
    """
    client, base = file_system(target), object_key(target)
    if scratch.is_file():
        client.put_file(str(scratch), base)
        return
    files = [file for file in scratch.rglob("*") if file.is_file()]
    new = {file: f"{base}/{file.relative_to(scratch).as_posix()}" for file in files}
    older = set(client.find(base))
    root = f"{base}/{_ROOT_METADATA}"
    for part in (older & {root}, older - {root} - set(new.values())):
        if part:
            client.rm(sorted(part))
    for _, level in groupby(sorted(files, key=lambda file: _level(scratch, file)), lambda file: _level(scratch, file)):
        together = list(level)
        client.put([str(file) for file in together], [new[file] for file in together])


def remove_remote(path: Path) -> None:
    """Remove an object, or all below a prefix; nothing happens where there is none."""
    client, base = file_system(path), object_key(path)
    if found := client.find(base):
        client.rm(found)


def _level(root: Path, file: Path) -> int:
    """Depth of a file, so that a folder of tables shows its own files first; the metadata of the root comes last."""
    relative = file.relative_to(root)
    return 1_000 if relative.as_posix() == _ROOT_METADATA else len(relative.parts)
