"""Locations: folders of this machine, or prefixes `s3://bucket/prefix` of an object store.

The rest of the package sees paths: `location` makes one from a text, and paths joined to it are of the same kind.
Credentials, region and endpoint of an object store come from the usual chain (`AWS_*` variables, `~/.aws`, the role of
the machine) and are not stored. Listings are never cached, because several machines write one store.
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
"""Objects fetched together: enough to hide the latency, few enough to fit into memory."""


def location(text: Path | str) -> Path:
    """A folder, or the path of an object store.

    Raises:
        UsageError: If it names another kind of store than `s3://`, or no bucket.
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
    """True if a path lies in an object store, which has no renames, locks or empty folders."""
    return isinstance(path, UPath)


def file_system(path: Path) -> AbstractFileSystem:
    """Client of the object store of a remote path."""
    return cast("UPath", path).fs


def snapshot_of(root: Path) -> Path:
    """The same location for one query: an object store then lists each folder once. Local paths are unchanged."""
    return cast("Path", UPath(str(root), **_OPTIONS | _SNAPSHOT)) if is_remote(root) else root


def connection_errors() -> tuple[type[Exception], ...]:
    """Errors besides `OSError` that a client raises without credentials or server."""
    from botocore.exceptions import BotoCoreError  # 0.1 s that local stores need not pay

    return (BotoCoreError,)


def object_key(path: Path) -> str:
    """Bucket and key of a remote path, without `s3://`."""
    return str(cast("UPath", path).path)


def absolute(text: Path | str) -> str:
    """A location as it is recorded: absolute, links resolved; an object store unchanged."""
    return str(location(text).resolve())


def cache_folder(root: Path) -> Path:
    """Folder of this machine for the catalog and caches of a remote store, which need not be shared."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "medsam3" / "stores" / hashlib.sha256(str(root).encode()).hexdigest()[:16]


def read_contents(paths: Sequence[Path]) -> Iterator[bytes]:
    """Yield the bytes of files in order; from an object store, many are fetched together."""
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
    """A local file for libraries that need one: the file itself, or a copy for the duration of the block.

    Raises:
        FileNotFoundError: If the object does not exist.
    """
    with local_copies(path.parent, [path.name]) as folder:
        yield folder / path.name


@contextmanager
def local_copies(root: Path, names: Iterable[str], *, missing_ok: bool = False) -> Iterator[Path]:
    """A local folder that holds these files of `root`: `root` itself, or copies for the duration of the block.

    Args:
        root: Folder or prefix.
        names: Files, relative to it.
        missing_ok: Leave out objects that do not exist; the caller reports them itself.

    Raises:
        FileNotFoundError: If one of the objects does not exist; names it.
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
    """Upload a finished local file or folder to its final name in an object store.

    A file is one request, or a multi-part upload that one request completes, so no reader sees half of it. The files of
    a folder appear one by one. The root metadata of a Zarr group makes it readable: it is uploaded last, and removed
    first when an older group is replaced.
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
    """Remove an object, or all objects below a prefix; does nothing if there are none."""
    client, base = file_system(path), object_key(path)
    if found := client.find(base):
        client.rm(found)


def _level(root: Path, file: Path) -> int:
    """Order of upload: by depth, so that a folder shows its own files first; the root metadata comes last."""
    relative = file.relative_to(root)
    return 1_000 if relative.as_posix() == _ROOT_METADATA else len(relative.parts)
