"""Who may write a run: one driver at a time, and no worker of a driver that has been replaced.

The lock of a run belongs to a driver and dies with it. Its workers may outlive it for a moment and finish what they
have in hand: they may still commit, but only until another driver has taken over. That is what the token is for. A
worker commits under a shared lock, a new driver writes its token under an exclusive one: no commit of the old workers
can fall behind the new driver's look at what is done.

An object store has no locks: there the driver holds a lease (`storage.store.leases`), and a worker asks for the token
before it commits. Between its question and its commit another driver may take over; a driver that replaces a dead one
therefore waits a moment before it looks, and what falls behind even that is computed twice and counted once, because
the newest outcome of a case is the one that counts.
"""

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from medsam3_core.errors import StoreError
from storage.store.atomic import store_errors
from storage.store.layout import StoreLayout
from storage.store.leases import leasing
from storage.store.locations import is_remote
from storage.store.locks import holding

_COMMITS_END_SECONDS = 5.0
"""How long commits of a dead driver's workers may be under way after its successor has written the token."""


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
    runs = sorted(set(run_ids))
    with ExitStack() as locks:
        if is_remote(store.root):
            _lease(locks, store, runs, token)
        else:
            for run_id in runs:
                locks.enter_context(holding(store.writer_lock(run_id), f"run {run_id} is being written"))
            for run_id in runs:
                _take_over(store.writer_token(run_id), token)
        yield token


@contextmanager
def ingesting(store: StoreLayout, cohort: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Be the only one that ingests into a cohort; wait, and say so, where somebody else does.

    Two drivers that list one source would read the same cases, and the first to finish would close the journal of the
    other.
    """
    path, what = store.ingest_lock(cohort), f"cohort {cohort} is being ingested"
    with ExitStack() as lock:
        try:
            lock.enter_context(holding(path, what))
        except StoreError as error:
            tell(f"{error} (this process waits)")
            lock.enter_context(holding(path, what, wait=True))
        yield


@contextmanager
def committing(store: StoreLayout, run_id: str, token: str) -> Iterator[None]:
    """Commit to a run as a worker of the driver that has this token; an empty token is not asked for.

    Raises:
        SupersededError: If another driver has taken over.
    """
    if not token:
        yield
        return
    if is_remote(store.root):
        _require_token(store.writer_token(run_id).read_text(encoding="utf-8"), token, run_id)
        yield
        return
    with store.writer_token(run_id).open("r") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        _require_token(handle.read(), token, run_id)
        yield


def _require_token(found: str, token: str, run_id: str) -> None:
    if found != token:
        msg = f"another process has taken over run {run_id}; this one leaves it alone"
        raise SupersededError(msg)


def _lease(locks: ExitStack, store: StoreLayout, runs: Sequence[str], token: str) -> None:
    taken = [
        locks.enter_context(leasing(store.writer_lock(run_id), f"run {run_id} is being written")) for run_id in runs
    ]
    for run_id in runs:
        store.writer_token(run_id).write_text(token, encoding="utf-8")
    if any(taken):
        time.sleep(_COMMITS_END_SECONDS)


def _take_over(path: Path, token: str) -> None:
    with _opened(path) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        _overwrite(path, handle, token)


def _opened(path: Path) -> IO[str]:
    with store_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")


def _overwrite(path: Path, handle: IO[str], text: str) -> None:
    """Without a buffer: what a full disk refuses must not be tried once more when the file is closed."""
    with store_errors(path):
        handle.truncate(0)
        os.write(handle.fileno(), text.encode())
