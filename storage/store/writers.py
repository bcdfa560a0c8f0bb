"""Write access to runs: one driver at a time, and no worker of a driver that has been replaced.

The lock of a run belongs to a driver and ends with it. Its workers may outlive it for a moment and finish their batch:
they may commit until another driver has taken over, which they see by the token. A worker commits under a shared lock,
a new driver writes its token under an exclusive one: after the new driver has listed the finished cases, no old worker
can commit.

An object store has no locks: there the driver holds a lease (`storage.store.leases`), and a worker reads the token
before it commits. Another driver may take over between the two, so a driver that replaces a dead one waits a moment
before it lists. A case that is committed even later is computed twice and counted once, because only the newest outcome
of a case counts.
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
"""Longest time that a commit of a dead driver's worker may take after its successor has written the token."""


class SupersededError(StoreError):
    """Another driver has taken over this run; the current work of this worker is discarded."""


@contextmanager
def writing(store: StoreLayout, run_ids: Sequence[str]) -> Iterator[str]:
    """Hold the writer locks of runs; the kernel releases them when this process ends, however it ends.

    Yields:
        The token with which workers of this driver commit.

    Raises:
        StoreError: If another process is writing one of them; names the run and the process.
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
    """Hold the ingest lock of a cohort; if another process holds it, say so and wait.

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
    """Commit to a run as a worker of the driver with this token; an empty token is not checked.

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
        msg = f"another process has taken over run {run_id}; this process stops writing it"
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
    """Write unbuffered: a write that a full disk refuses must not be repeated when the file is closed."""
    with store_errors(path):
        handle.truncate(0)
        os.write(handle.fileno(), text.encode())
