"""Dask clusters as context managers: started or joined, checked, warmed up and closed."""

import importlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from distributed import Client, WorkerPlugin

from flows.clusters.forking import begin_forking
from flows.clusters.keeper import keeping_workers
from flows.clusters.kinds import make_cluster, scale, workers_wanted
from flows.clusters.quiet_end import QuietEnd
from flows.clusters.worker_check import WorkerCheckError, allow_failures, check_versions, seeing_store
from flows.messages.console import say
from flows.settings.clusters import ClusterKind, ClusterSettings
from medsam3_core.errors import Medsam3Error, UsageError
from storage.store.layout import StoreLayout
from storage.weights.weights import Weights

_STARTS = 3
_OF_THIS_MACHINE = (ClusterKind.LOCAL, ClusterKind.THREADS, ClusterKind.GPU)


@dataclass(frozen=True, slots=True)
class Workers:
    """A running cluster.

    Attributes:
        client: Client; not Dask's default one.
        slots: Number of batches that can run at a time.
        threads_per_worker: Threads for the numerics of one worker.
        resources: Dask resources that a batch requires.
        wait_seconds: Time limit for the first worker after a restart of the scheduler.
        local: True if the workers run on this machine.
        plugins: Registered plugins by name.
    """

    client: Client
    slots: int
    threads_per_worker: int
    resources: dict[str, float] | None
    wait_seconds: float
    local: bool
    plugins: dict[str, WorkerPlugin]

    def register(self, plugin: WorkerPlugin) -> None:
        """Register a plugin on all present and future workers; it replaces a plugin of the same name.

        Raises:
            Medsam3Error: Raised by the plugin in a worker.
            WorkerCheckError: If the plugin fails with another error; quotes it.
        """
        try:
            self.client.register_plugin(plugin)
        except Medsam3Error:
            raise
        except Exception as error:
            msg = f"a worker cannot be prepared ({plugin.name}): {type(error).__name__}: {error}"
            raise WorkerCheckError(msg) from error
        self.plugins[plugin.name] = plugin

    def prepare_again(self, client: Client) -> None:
        """Register all plugins again after a restart of the scheduler."""
        say("the Dask scheduler was restarted; preparing its workers again")
        allow_failures(client, 0)
        client.wait_for_workers(1, timeout=self.wait_seconds)
        for plugin in self.plugins.values():
            client.register_plugin(plugin)

    @contextmanager
    def on_store(self, store: StoreLayout) -> Iterator[None]:
        """Require that workers on other machines see this store while the block runs.

        Raises:
            WorkerCheckError: If a worker does not; names it.
        """
        if self.local:
            yield
            return
        with seeing_store(self.client, store) as plugin:
            self.plugins[plugin.name] = plugin
            yield
        del self.plugins[plugin.name]


_early: ContextVar["Future[Workers] | None"] = ContextVar("early workers", default=None)


@contextmanager
def workers_starting(settings: ClusterSettings, weights: Sequence[Weights]) -> Iterator[None]:
    """Start a cluster in the background for the flow that is called in this block.

    Prefect's server and workers that import torch both need seconds to start; this runs the two in parallel. A nested
    block uses the workers of the outer one.
    """
    if _early.get() is not None:
        yield
        return
    begin_forking(settings, weights)
    with ExitStack() as stack, ThreadPoolExecutor(max_workers=1, thread_name_prefix="early-cluster") as executor:
        token = _early.set(executor.submit(_start_warm, stack, settings, list(weights)))
        try:
            yield
        finally:
            _early.reset(token)


def _start_warm(stack: ExitStack, settings: ClusterSettings, weights: list[Weights]) -> Workers:
    workers = stack.enter_context(_fresh_workers(settings, weights))
    if any(item.path is not None for item in weights):
        workers.client.run(_import, "storage.weights.checkpoints")
    return workers


@contextmanager
def dask_workers(settings: ClusterSettings, weights: Sequence[Weights]) -> Iterator[Workers]:
    """Workers for the length of a block: those started by `workers_starting`, else new ones."""
    early = _early.get()
    if early is not None:
        yield early.result()
        return
    with _fresh_workers(settings, weights) as workers:
        yield workers


@contextmanager
def _fresh_workers(settings: ClusterSettings, weights: Sequence[Weights]) -> Iterator[Workers]:
    """Start or join a cluster for the length of a block.

    Args:
        settings: The cluster.
        weights: Weights that the workers will hold; their size limits how many fit into memory.

    Raises:
        UsageError: If the cluster needs something that is not installed, or no worker connects.
        WorkerCheckError: If code or packages of scheduler or workers differ from this driver's.
    """
    with ExitStack() as stack:
        if settings.kind is ClusterKind.ADDRESS:
            yield from _joined(stack, settings)
        else:
            cluster = stack.enter_context(_started(settings, weights))
            client = stack.enter_context(Client(cluster, set_as_default=False, timeout=settings.wait_seconds))
            scale(cluster, settings)
            stack.enter_context(keeping_workers(cluster))
            yield _prepared(client, settings, "this cluster")


def _joined(stack: ExitStack, settings: ClusterSettings) -> Iterator[Workers]:
    address = settings.address
    try:
        client = stack.enter_context(Client(address, set_as_default=False, timeout=settings.wait_seconds))
    except (OSError, ValueError) as error:
        msg = f"no Dask scheduler answers at {address} within {settings.wait_seconds:g} s ({error}); start one with: "
        raise UsageError(msg + "dask scheduler --no-dashboard") from error
    failures = allow_failures(client, 0)
    try:
        yield _prepared(client, settings, address)
    finally:
        if client.status == "running":
            allow_failures(client, failures)


def _prepared(client: Client, settings: ClusterSettings, where: str) -> Workers:
    try:
        client.wait_for_workers(1, timeout=settings.wait_seconds)
    except TimeoutError as error:
        command = f"dask worker {where} --nthreads 1"
        msg = f"no worker connected to {where} within {settings.wait_seconds:g} s; start some with: {command}"
        raise UsageError(msg) from error
    local = settings.kind in _OF_THIS_MACHINE
    plugins: list[WorkerPlugin] = [QuietEnd()] if local else [check_versions(client, where)]
    if local:
        client.register_plugin(plugins[0])
    for module in ("tasks.ingest", "tasks.segment"):  # else the first batch would wait for it
        client.run(_import, module)
    resources = {**({"GPU": 1.0} if settings.kind is ClusterKind.GPU else {}), **settings.resources}
    _require_resources(client, resources, where)
    threads = sum(client.nthreads().values())
    return Workers(
        client,
        workers_wanted(settings, threads),
        _threads_per_worker(client),
        resources or None,
        settings.wait_seconds,
        local,
        {plugin.name: plugin for plugin in plugins},
    )


@contextmanager
def _started(settings: ClusterSettings, weights: Sequence[Weights]) -> Iterator[Any]:
    """Start a cluster; a worker killed during the start fails all of it, so try again."""
    for attempt in range(1, _STARTS + 1):
        try:
            cluster = make_cluster(settings, weights)
            break
        except RuntimeError as error:
            if attempt == _STARTS:
                msg = f"workers do not start ({error}); check the free memory of this machine, or use --cluster threads"
                raise UsageError(msg) from error
    with cluster:
        yield cluster


def _require_resources(client: Client, resources: dict[str, float], where: str) -> None:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    for name, amount in resources.items():
        if all(worker["resources"].get(name, 0) < amount for worker in workers):
            msg = f"no worker at {where} offers {amount:g} {name}; start workers with --resources {name}={amount:g}"
            raise WorkerCheckError(msg)


def _threads_per_worker(client: Client) -> int:
    """Threads for the numerics of one batch: the cores of the busiest host, divided by its batches."""
    cores: dict[str, int] = client.run(_cores)
    workers = client.scheduler_info(n_workers=-1)["workers"]
    batches = Counter[str]()
    for address in cores:
        batches[workers[address]["host"]] += workers[address]["nthreads"]
    return max(1, min(count // batches[workers[address]["host"]] for address, count in cores.items()))


def _import(module: str) -> None:
    """Import a module in a worker; returning it would make the driver import it too."""
    importlib.import_module(module)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
