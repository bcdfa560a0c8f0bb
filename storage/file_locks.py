"""One process at a time: a lock that the kernel releases when its process dies, however it dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medsam3_core.errors import StoreError


@contextmanager
def holding(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file for the length of a block.

    Args:
        path: Lock file; made if absent, and left behind.
        what: What is being done under the lock, for the message: `the store is being watched`.
        wait: Whether to wait for another holder rather than fail.

    Raises:
        StoreError: If another process holds it; names the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            handle.seek(0)
            msg = f"{what} by process {handle.read().strip() or '?'}; wait for it or stop it"
            raise StoreError(msg) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
