"""Checks before the first batch: every worker runs the driver's code and sees the store.

The checks are worker plugins, so they also run on workers that join later (adaptive scaling, a restart).
"""

import hashlib
import importlib.metadata
import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from distributed import Client, Scheduler, Worker, WorkerPlugin

from medsam3_core.errors import UsageError
from storage.store.layout import StoreLayout

_PACKAGES = ("medsam3_core", "storage", "tasks", "flows")
_SAME_ON_ALL = ("distributed", "numpy", "zarr", "pyarrow", "torch", "transformers")


class WorkerCheckError(UsageError):
    """A worker does not meet the requirements of the run; nothing was computed."""


@cache
def code_digest() -> str:
    """Digest of the source files; the version number does not change with edits of an editable install."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def versions_here() -> dict[str, str]:
    """Versions that must be equal on driver and workers."""
    found = {"python": platform.python_version().rpartition(".")[0], "medsam3 code": code_digest()[:12]}
    for package in _SAME_ON_ALL:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


class SameVersions(WorkerPlugin):
    """Rejects workers whose code or packages differ from the driver's."""

    name = "medsam3-same-versions"

    def __init__(self) -> None:
        self.expected = versions_here()

    def setup(self, worker: Worker) -> None:
        """Compare the versions of this worker with the driver's.

        Raises:
            WorkerCheckError: Names the worker, every difference and the remedy.
        """
        here = versions_here()
        differences = [
            f"{name} {here.get(name)} instead of {value}"
            for name, value in self.expected.items()
            if here.get(name) != value
        ]
        if differences:
            msg = (
                f"worker {worker.address} on {platform.node()} has {', '.join(differences)}; install the same "
                "medsam3 there (the same image or constraints.txt) and start the worker again"
            )
            raise WorkerCheckError(msg)


class SeesStore(WorkerPlugin):
    """Rejects workers that do not find the store under the driver's path."""

    name = "medsam3-sees-store"

    def __init__(self, store: StoreLayout, sign: str) -> None:
        self.store, self.sign = store, sign

    def setup(self, worker: Worker) -> None:
        """Look for the marker file that the driver wrote into the store.

        Raises:
            WorkerCheckError: Names worker and store.
        """
        if not self.store.sign(self.sign).exists():
            msg = (
                f"worker {worker.address} on {platform.node()} does not see the store {self.store.root}; put it where "
                "driver and workers have it under the same path, or on s3://"
            )
            raise WorkerCheckError(msg)


def check_versions(client: Client, where: str) -> SameVersions:
    """Check code and package versions of scheduler and workers; returns the registered plugin.

    Raises:
        WorkerCheckError: If one differs or cannot import medsam3; names it.
    """
    plugin = SameVersions()
    try:
        client.register_plugin(plugin)
    except ModuleNotFoundError as error:
        msg = (
            f"scheduler or workers at {where} cannot import {error.name!r}; install the same medsam3 there and start "
            "them again"
        )
        raise WorkerCheckError(msg) from error
    return plugin


@contextmanager
def seeing_store(client: Client, store: StoreLayout) -> Iterator[SeesStore]:
    """Check that all workers see the store, also those that join while the block runs.

    Yields:
        The registered plugin.

    Raises:
        WorkerCheckError: If a worker does not; names it.
    """
    plugin = SeesStore(store, f"sign-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    sign = store.sign(plugin.sign)
    sign.parent.mkdir(parents=True, exist_ok=True)
    sign.touch()
    try:
        client.register_plugin(plugin)
        yield plugin
    finally:
        if client.status == "running":
            client.unregister_worker_plugin(plugin.name)
        sign.unlink(missing_ok=True)


def allow_failures(client: Client, count: int) -> int:
    """Set how often the scheduler retries a batch after its worker died; returns the previous number.

    With 0 a dead worker is reported at once, and our stream decides about retries.
    """
    before: int = client.run_on_scheduler(_set_allowed_failures, count)
    return before


def _set_allowed_failures(count: int, dask_scheduler: Scheduler) -> int:
    before: int = dask_scheduler.allowed_failures
    dask_scheduler.allowed_failures = count
    return before
