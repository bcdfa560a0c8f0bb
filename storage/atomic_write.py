"""No half-written file under a final name: write beside, flush, rename. Leftovers start with `.tmp-` and are swept."""

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medsam3_core.errors import StoreError

TEMPORARY_PREFIX = ".tmp-"

_OF_THE_STORE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}
)
"""Errors of writing that a person mends by another folder or a freed disk; others are ours."""


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a scratch path beside `target` (a file or a folder to be made); rename it into place on success.

    A file replaces an older one at once. A folder that exists is renamed aside first, so there is a moment without
    either: folders are therefore written once and only replaced when their source has changed.

    Raises:
        StoreError: If the disk is full or the folder cannot be written; the target is as it was.
    """
    scratch = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield scratch
        _put_in_place(scratch, target)
    except OSError as error:
        if error.errno in _OF_THE_STORE:
            msg = f"cannot write {target}: {error.strerror}; free the disk or choose another --store, then run again"
            raise StoreError(msg) from error
        raise
    finally:
        _remove(scratch)


def write_json(target: Path, value: Any) -> None:
    """Write a JSON file in one step, readable by people."""
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
    """Remove scratch files and folders that a killed process left below `folder`; returns how many.

    Younger ones may belong to a process that is writing now and stay.
    """
    limit = time.time() - older_than_seconds
    leftovers = [path for path in folder.rglob(f"{TEMPORARY_PREFIX}*") if path.stat().st_mtime < limit]
    for path in leftovers:
        _remove(path)
    return len(leftovers)


def _put_in_place(scratch: Path, target: Path) -> None:
    if target.is_dir():
        aside = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-old-{target.name}")
        os.rename(target, aside)
        os.rename(scratch, target)
        shutil.rmtree(aside)
    else:
        os.replace(scratch, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
