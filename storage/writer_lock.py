"""Who may write a run: one driver at a time, and no worker of a driver that has been replaced.

The lock of a run belongs to a driver and dies with it. Its workers may outlive it for a moment and finish what they
have in hand: they may still commit, but only until another driver has taken over. That is what the token is for. A
worker commits under a shared lock, a new driver writes its token under an exclusive one: no commit of the old workers
can fall behind the new driver's look at what is done.
"""

import fcntl
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from medsam3_core.errors import StoreError
from storage.file_locks import holding
from storage.store_layout import StoreLayout


class SupersededError(StoreError):
    """Another driver has taken over this run; what this worker has in hand belongs to nobody."""


@contextmanager
def writing(store: StoreLayout, run_ids: Sequence[str]) -> Iterator[str]:
    """Hold the writer lock of some runs; the kernel releases it when this process dies, however it dies.

    Yields:
        The token with which workers of this driver commit.

    Raises:
        StoreError: If another process writes one of them; names the run and the process.
    """
    token = uuid.uuid4().hex
    with ExitStack() as locks:
        for run_id in sorted(set(run_ids)):
            locks.enter_context(holding(store.writer_lock(run_id), f"run {run_id} is being written"))
        for run_id in set(run_ids):
            _take_over(store.writer_token(run_id), token)
        yield token


@contextmanager
def committing(store: StoreLayout, run_id: str, token: str) -> Iterator[None]:
    """Commit to a run as a worker of the driver that has this token; an empty token is not asked for.

    Raises:
        SupersededError: If another driver has taken over.
    """
    if not token:
        yield
        return
    with store.writer_token(run_id).open("r") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        if handle.read() != token:
            msg = f"another process has taken over run {run_id}; this one leaves it alone"
            raise SupersededError(msg)
        yield


def _take_over(path: Path, token: str) -> None:
    with path.open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.truncate(0)
        handle.write(token)
