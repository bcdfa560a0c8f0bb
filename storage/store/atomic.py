"""Atomic writes: write a scratch file beside the target, then rename it. Leftovers start with `.tmp-` and are swept.

For an object store the scratch file lies on this machine and is uploaded in one request.
"""

import errno
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medsam3_core.errors import StoreError
from storage.store.locations import connection_errors, is_remote, remove_remote, upload

TEMPORARY_PREFIX = ".tmp-"

_DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}
)
"""Errors of writing that the user can solve by another folder or a freed disk."""


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a scratch path of this machine (a file or a folder to create); it becomes `target` on success.

    A file replaces an older one in one step. An existing folder is renamed aside first, so for a moment there is
    neither: folders are written once and only replaced when their source has changed.

    Raises:
        StoreError: If the disk is full or the folder cannot be written; the target is unchanged.
    """
    if is_remote(target):
        with _uploading(target) as scratch:
            yield scratch
        return
    scratch = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{target.name}")
    try:
        with store_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield scratch
            _put_in_place(scratch, target)
    finally:
        remove(scratch)


@contextmanager
def store_errors(target: Path) -> Iterator[None]:
    """Turn errors of a full disk or an unwritable folder into a message with a remedy.

    Raises:
        StoreError: In place of the system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            msg = f"cannot write {target}: {error.strerror}; free the disk or choose another --store, then run again"
            raise StoreError(msg) from error
        raise


@contextmanager
def _uploading(target: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="medsam3-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder) / target.name
        refused: tuple[type[Exception], ...] = (PermissionError, *connection_errors())
        try:
            yield scratch
            upload(scratch, target)
        except refused as error:
            msg = f"cannot write {target}: {error}; give access to it or choose another --store, then run again"
            raise StoreError(msg) from error
        except OSError as error:
            if error.errno in _DISK_ERRORS - {errno.EEXIST}:
                msg = f"cannot write {scratch} for {target}: {error.strerror}; free the disk or set TMPDIR"
                raise StoreError(msg) from error
            raise


def write_json(target: Path, value: Any) -> None:
    """Write an indented JSON file in one step."""
    with replacing(target) as scratch:
        scratch.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file of the store.

    Raises:
        StoreError: If it is absent or not JSON; names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"cannot read {path}: {error}; restore it from a backup or run the command that writes it again"
        raise StoreError(msg) from error


def sweep_leftovers(folder: Path, *, older_than_seconds: float) -> int:
    """Remove scratch files and folders that a killed process left below `folder`; returns their number.

    Younger ones stay: they may belong to a running process.
    """
    if is_remote(folder):  # scratch files of an object store lie elsewhere
        return 0
    limit = time.time() - older_than_seconds
    leftovers = [path for path in folder.rglob(f"{TEMPORARY_PREFIX}*") if path.stat().st_mtime < limit]
    for path in leftovers:
        remove(path)
    return len(leftovers)


def _put_in_place(scratch: Path, target: Path) -> None:
    if target.is_dir():
        aside = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-old-{target.name}")
        os.rename(target, aside)
        os.rename(scratch, target)
        shutil.rmtree(aside)
    else:
        os.replace(scratch, target)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content; does nothing if there is none."""
    if is_remote(path):
        remove_remote(path)
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
