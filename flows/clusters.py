"""Dask clusters by name, built inside a flow, so that a missing package is a clear message and not an import error."""

import atexit
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import psutil
from distributed import Client, LocalCluster, Worker, WorkerPlugin

from medsam3_core.errors import UsageError
from storage.weights import Weights

_BYTES_PER_PARAMETER = 6
_WORKER_BASE_BYTES = 1_500_000_000
_RESTART_SECONDS = 300


class ClusterKind(StrEnum):
    """How workers come into being."""

    LOCAL = "local"
    THREADS = "threads"
    GPU = "gpu"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """A named cluster.

    Attributes:
        kind: How workers come into being.
        workers: Worker processes (threads for `threads`); 0 chooses by cores, memory and size of the weights.
        memory_limit: Per worker, as Dask writes it (`4GB`), or `auto`.
        address: Scheduler for `address`.
    """

    kind: ClusterKind = ClusterKind.LOCAL
    workers: int = 0
    memory_limit: str = "auto"
    address: str = ""


def parse_cluster(name: str) -> ClusterSettings:
    """A cluster by name: `local`, `local:4`, `threads`, `gpu`, or the address of a scheduler (`tcp://host:8786`).

    Raises:
        UsageError: If there is no such cluster; lists what exists.
    """
    if "://" in name:
        return ClusterSettings(ClusterKind.ADDRESS, address=name.removeprefix("address:"))
    kind, _, workers = name.partition(":")
    if kind not in (ClusterKind.LOCAL, ClusterKind.THREADS, ClusterKind.GPU) or not (workers or "0").isdigit():
        msg = f"unknown cluster {name!r}; choose local, local:WORKERS, threads, gpu or tcp://SCHEDULER:PORT"
        raise UsageError(msg)
    return ClusterSettings(ClusterKind(kind), workers=int(workers or 0))


@dataclass(frozen=True, slots=True)
class Workers:
    """A running cluster.

    Attributes:
        client: Client that is not Dask's default one.
        slots: Batches that can run at a time.
        threads_per_worker: Threads that the numerics of one worker may use.
        resources: Dask resources that a batch asks for.
        plugins: What has been registered, by name.
    """

    client: Client
    slots: int
    threads_per_worker: int
    resources: dict[str, float] | None = None
    plugins: dict[str, WorkerPlugin] = field(default_factory=dict)

    def register(self, plugin: WorkerPlugin) -> None:
        """Prepare all workers, those that join later too; another plugin of the same name is replaced."""
        self.plugins[plugin.name] = plugin
        self.client.register_plugin(plugin)

    def prepare_again(self, client: Client) -> None:
        """Prepare the workers of a scheduler that was restarted and knows nothing any more."""
        client.wait_for_workers(1, timeout=_RESTART_SECONDS)
        for plugin in self.plugins.values():
            client.register_plugin(plugin)


class QuietEnd(WorkerPlugin):
    """Ctrl-C reaches the whole process group: workers leave it to the driver, which ends them in order and quietly.

    A worker that ends while its thread is busy would print a hundred lines about objects that DuckDB's bindings leak:
    its process ends without tearing the interpreter down.
    """

    name = "medsam3-quiet-end"

    def setup(self, worker: Worker) -> None:
        """Called in the main thread of the worker's process, also after a restart."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if multiprocessing.parent_process() is not None:
                atexit.register(os._exit, 0)


_early: ContextVar["Future[Workers] | None"] = ContextVar("early workers", default=None)


@contextmanager
def workers_starting(settings: ClusterSettings, weights: Sequence[Weights]) -> Iterator[None]:
    """Start a cluster in the background for the flow that is called in this block, which will find it ready.

    Prefect's own server needs seconds to start, and so do workers that import torch: side by side they take as long
    as the slower of the two. Inside another such block its workers are used.
    """
    if _early.get() is not None:
        yield
        return
    with ExitStack() as stack, ThreadPoolExecutor(max_workers=1, thread_name_prefix="early-cluster") as executor:
        token = _early.set(executor.submit(_start_warm, stack, settings, list(weights)))
        try:
            yield
        finally:
            _early.reset(token)


def _start_warm(stack: ExitStack, settings: ClusterSettings, weights: list[Weights]) -> Workers:
    workers = stack.enter_context(_fresh_workers(settings, weights))
    if any(item.path is not None for item in weights):
        workers.client.run(importlib.import_module, "storage.checkpoints")
    return workers


@contextmanager
def dask_workers(settings: ClusterSettings, weights: Sequence[Weights]) -> Iterator[Workers]:
    """Workers for the length of a block: those that `workers_starting` began, else new ones."""
    early = _early.get()
    if early is not None:
        yield early.result()
        return
    with _fresh_workers(settings, weights) as workers:
        yield workers


@contextmanager
def _fresh_workers(settings: ClusterSettings, weights: Sequence[Weights]) -> Iterator[Workers]:
    """Start (or join) a cluster for the length of a block.

    Args:
        settings: Which cluster.
        weights: What the workers will hold, to choose how many fit into memory.

    Raises:
        UsageError: If the cluster needs a package that is not installed, or no worker answers.
    """
    cores = os.cpu_count() or 1
    if settings.kind is ClusterKind.ADDRESS:
        with Client(settings.address, set_as_default=False, timeout="20s") as client:
            client.wait_for_workers(1, timeout=60)
            slots = sum(client.nthreads().values())
            yield Workers(client, slots, max(1, cores // max(1, slots)))
        return
    count = settings.workers or _fitting_workers(cores, weights)
    with (
        _make_cluster(settings, count) as cluster,
        Client(cluster, set_as_default=False, timeout="60s") as client,
    ):
        client.wait_for_workers(1, timeout=120)
        client.register_plugin(QuietEnd())
        for module in ("tasks.ingest_cases", "tasks.segment_cases"):  # seconds that the first batch would pay
            client.run(importlib.import_module, module)
        resources = {"GPU": 1.0} if settings.kind is ClusterKind.GPU else None
        slots = max(1, sum(client.nthreads().values()))
        yield Workers(client, slots, max(1, cores // slots), resources)


def _make_cluster(settings: ClusterSettings, count: int) -> Any:
    if settings.kind is ClusterKind.GPU:
        try:
            module = importlib.import_module("dask_cuda")
        except ImportError:
            msg = "cluster 'gpu' needs the package dask-cuda; install it on a machine with NVIDIA GPUs, or use local"
            raise UsageError(msg) from None
        return module.LocalCUDACluster(resources={"GPU": 1})
    if settings.kind is ClusterKind.THREADS:
        return LocalCluster(
            n_workers=count, threads_per_worker=1, processes=False, memory_limit=None, dashboard_address=None
        )
    return LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        processes=True,
        memory_limit=settings.memory_limit,
        host="127.0.0.1",
        # None would serve it on port 8787 of every interface; a free loopback port without pages serves nobody.
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
    )


def worker_count(settings: ClusterSettings, weights: Sequence[Weights]) -> int:
    """How many batches a cluster of ours will run at a time; 1 where only its scheduler knows."""
    if settings.kind is ClusterKind.ADDRESS:
        return 1
    return settings.workers or _fitting_workers(os.cpu_count() or 1, weights)


def _fitting_workers(cores: int, weights: Sequence[Weights]) -> int:
    largest = max((item.parameters for item in weights), default=0)
    per_worker = _WORKER_BASE_BYTES + largest * _BYTES_PER_PARAMETER
    return max(1, min(cores, int(psutil.virtual_memory().available // per_worker)))
