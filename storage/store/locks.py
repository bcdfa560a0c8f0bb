"""Locks for one process at a time: a file lock that ends with its process, or a lease in an object store."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medsam3_core.errors import StoreError
from storage.store.atomic import store_errors
from storage.store.leases import leasing
from storage.store.locations import is_remote


@contextmanager
def holding(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock for the duration of a block.

    Args:
        path: Lock file; created if absent, and not removed.
        what: Work done under the lock, for the message: `the store is being watched`.
        wait: Wait for another holder instead of failing.

    Raises:
        StoreError: If another process holds it; names the process.
    """
    if is_remote(path):
        with leasing(path, what, wait=wait):
            yield
        return
    with store_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+")
    with opened as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            handle.seek(0)
            msg = f"{what} by process {handle.read().strip() or '?'}; wait for it or stop it"
            raise StoreError(msg) from None
        with store_errors(path):
            handle.truncate(0)
            os.write(handle.fileno(), str(os.getpid()).encode())
        yield
