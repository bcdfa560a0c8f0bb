"""Locks in an object store, which has none: an object that one holder keeps renewing.

A lease is taken by a conditional PUT, which only one of several processes wins. Its holder renews it every few seconds.
A lease that was not renewed for `LEASE_SECONDS` of the store's own clock is expired and may be taken over, again by a
conditional PUT. A lease of a process of this machine that has ended is taken over at once. A holder that lost its lease
(a machine that slept) notices at its next renewal; until then the token of `storage.store.writers` keeps its workers
from committing.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import psutil

from medsam3_core.errors import StoreError
from storage.store.locations import connection_errors, file_system, object_key

LEASE_SECONDS = 60.0
"""Age at which a lease expires; longer than any pause of a running driver."""
_RENEW_SECONDS = 10.0
_ASK_AGAIN_SECONDS = 1.0
_REFUSED = ("pre-condition", "PreconditionFailed", "ConditionalRequestConflict")
"""Parts of the errors that answer a conditional PUT whose condition failed."""


@dataclass(frozen=True, slots=True)
class _Found:
    holder: dict[str, Any]
    etag: str
    seconds_ago: float


@contextmanager
def leasing(path: Path, what: str, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lease for the length of a block.

    Args:
        path: The object.
        what: Work done under the lease, for the message: `run abc is being written`.
        wait: Wait for another holder instead of failing.

    Yields:
        True if it was taken over from a dead holder.

    Raises:
        StoreError: If another process holds it; names the process, its machine and the time of its last renewal.
    """
    lease = _Lease(path)
    while (other := lease.take()) is not None:
        if not wait:
            msg = (
                f"{what} by process {other.holder.get('pid', '?')} on {other.holder.get('machine', '?')}, last active "
                f"{other.seconds_ago:.0f} s ago; wait for it or stop it (a dead process is replaced after "
                f"{LEASE_SECONDS:.0f} s)"
            )
            raise StoreError(msg)
        time.sleep(_ASK_AGAIN_SECONDS)
    stop = threading.Event()
    renewing = threading.Thread(target=lease.keep, args=(stop,), name="medsam3-lease", daemon=True)
    renewing.start()
    try:
        yield lease.was_taken_over
    finally:
        stop.set()
        renewing.join()
        lease.release()


class _Lease:
    def __init__(self, path: Path) -> None:
        self._client = file_system(path)
        bucket, key, _ = self._client.split_path(object_key(path))
        self._place = {"Bucket": bucket, "Key": key}
        self._body = json.dumps(_this_process()).encode()
        self._etag = ""
        self.was_taken_over = False

    def take(self) -> _Found | None:
        """Take the lease if it is free or its holder is dead; otherwise return the holder."""
        if self._put(IfNoneMatch="*"):
            return None
        found = self._look()
        if found is None:  # released meanwhile
            return None if self._put(IfNoneMatch="*") else self._look() or _Found({}, "", 0.0)
        if found.seconds_ago < LEASE_SECONDS and not _is_gone(found.holder):
            return found
        if self._put(IfMatch=found.etag):
            self.was_taken_over = True
            return None
        return found

    def keep(self, stop: threading.Event) -> None:
        """Renew until `stop` is set or another process has taken over; retry while the store is unreachable."""
        while not stop.wait(_RENEW_SECONDS):
            with suppress(OSError, *connection_errors()):
                if not self._put(IfMatch=self._etag) and not self._is_ours():
                    return

    def release(self) -> None:
        """Delete the lease, unless another process has taken over."""
        with suppress(OSError, *connection_errors()):  # it expires by itself
            if self._is_ours():
                self._client.call_s3("delete_object", **self._place)

    def _is_ours(self) -> bool:
        found = self._look()
        if found is None or found.holder != json.loads(self._body):
            return False
        self._etag = found.etag
        return True

    def _put(self, **condition: str) -> bool:
        try:
            answer = self._client.call_s3("put_object", **self._place, Body=self._body, **condition)
        except FileExistsError:
            return False
        except OSError as error:
            if not isinstance(error, FileNotFoundError) and not any(word in str(error) for word in _REFUSED):
                raise
            return False
        self._etag = answer["ETag"]
        return True

    def _look(self) -> _Found | None:
        """Holder and age of the lease, by the clock of the store."""
        try:
            head = self._client.call_s3("head_object", **self._place)
            body = self._client.cat_file(f"{self._place['Bucket']}/{self._place['Key']}")
        except FileNotFoundError:
            return None
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
        changed: datetime = head["LastModified"]
        return _Found(json.loads(body), head["ETag"], max(0.0, (now - changed).total_seconds()))


def _this_process() -> dict[str, Any]:
    return {"machine": platform.node(), "space": _process_space(), "pid": os.getpid(), "since": _since(os.getpid())}


def _is_gone(holder: dict[str, Any]) -> bool:
    """True if the holder was a process of this machine (and container) that has ended."""
    if not holder.get("space") or holder.get("space") != _process_space():
        return False
    return bool(_since(int(holder["pid"])) != holder["since"])


def _process_space() -> str:
    """Scope in which process numbers are unique: this boot of this machine, this container."""
    with suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _since(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
