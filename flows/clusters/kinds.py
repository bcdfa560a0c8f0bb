"""One way per kind to bring workers into being. Packages that a kind needs are imported by that kind alone."""

import importlib
import os
import subprocess
from collections.abc import Sequence
from typing import Any

import dask
import psutil
from distributed import LocalCluster, Nanny, Scheduler, SpecCluster

from flows.clusters.forking import begin_forking, forks
from flows.settings.clusters import ClusterKind, ClusterSettings
from flows.settings.environment import ALLOCATION
from medsam3_core.errors import UsageError
from storage.weights.weights import Weights

_BYTES_PER_PARAMETER = 6
_WORKER_BASE_BYTES = 1_500_000_000
_LOOPBACK = "127.0.0.1"
_METHOD = "distributed.worker.multiprocessing-method"
# None would serve it on port 8787 of every interface; a free loopback port without pages serves nobody.
_NO_DASHBOARD = f"{_LOOPBACK}:0"


def make_cluster(settings: ClusterSettings, weights: Sequence[Weights]) -> Any:
    """A running cluster of our own.

    Args:
        settings: Which; not of the kind `address`.
        weights: What the workers will hold, to choose how many fit into memory.

    Raises:
        UsageError: If the kind needs a package or a device that is not there.
    """
    if settings.kind is ClusterKind.GPU:
        return gpu_cluster(settings)
    if settings.kind is ClusterKind.SLURM:
        return slurm_cluster(settings)
    adaptive = settings.adaptive
    count = adaptive.minimum if adaptive else settings.workers or _fitting_workers(os.cpu_count() or 1, weights)
    if settings.kind is ClusterKind.THREADS:
        return LocalCluster(
            n_workers=count, threads_per_worker=1, processes=False, memory_limit=None, dashboard_address=None,
            resources=dict(settings.resources) or None,
        )  # fmt: skip
    begin_forking(settings, weights)
    dask.config.set({_METHOD: "forkserver" if forks(settings) else dask.config.get(_METHOD)})
    return LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        processes=True,
        env=dict(os.environ),  # a forked worker has the environment of the process that it was forked from
        memory_limit=settings.memory_limit,
        host=_LOOPBACK,
        dashboard_address=_NO_DASHBOARD,
        scheduler_kwargs={"dashboard": False},
        resources=dict(settings.resources) or None,
    )


def gpu_cluster(settings: ClusterSettings) -> SpecCluster:
    """One worker process per GPU, which sees that GPU alone; needs no package beyond Dask.

    Raises:
        UsageError: If there is no GPU and none is named.
    """
    devices = settings.devices or _visible_gpus()
    devices = devices[: settings.workers] if settings.workers else devices
    if not devices:
        msg = "cluster 'gpu' needs an NVIDIA GPU and this machine shows none (nvidia-smi -L); use --cluster local"
        raise UsageError(msg)
    limit = settings.memory_limit if settings.memory_limit != "auto" else str(1.0 / len(devices))
    workers = {
        f"gpu-{device}": {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "memory_limit": limit if settings.memory_limit != "auto" else float(limit),
                "host": _LOOPBACK,
                "dashboard": False,
                "resources": {"GPU": 1.0, **settings.resources},
                "env": {"CUDA_VISIBLE_DEVICES": str(device)},
            },
        }
        for device in devices
    }
    dask.config.set({_METHOD: "spawn"})
    options = {"host": _LOOPBACK, "dashboard": False, "dashboard_address": _NO_DASHBOARD}
    return SpecCluster(workers=workers, scheduler={"cls": Scheduler, "options": options})


def slurm_cluster(settings: ClusterSettings) -> Any:
    """Jobs of a Slurm queue, each with one worker; the scheduler runs in this process.

    Raises:
        UsageError: If dask-jobqueue is not installed.
    """
    try:
        jobqueue = importlib.import_module("dask_jobqueue")
    except ImportError:
        msg = "cluster kind 'slurm' needs the package dask-jobqueue; install it here with: pip install dask-jobqueue"
        raise UsageError(msg) from None
    slurm = settings.slurm
    resources = ",".join(f"{key}={value:g}" for key, value in settings.resources.items())
    return jobqueue.SLURMCluster(
        queue=slurm.queue or None,
        account=slurm.account or None,
        walltime=slurm.walltime,
        cores=1,  # threads of the worker: one batch at a time; the numerics inside it use all cores of the job
        processes=1,
        job_cpu=slurm.cores,
        memory=settings.memory_limit if settings.memory_limit != "auto" else f"{8 * slurm.cores}GB",
        job_extra_directives=list(slurm.directives),
        job_script_prologue=[*(f"export {name}={value}" for name, value in ALLOCATION.items()), *slurm.prologue],
        worker_extra_args=["--no-dashboard", *(["--resources", resources] if resources else [])],
        interface=slurm.interface or None,
        log_directory=slurm.log_directory or None,
        job_name="medsam3",
        n_workers=0,  # asked for once the scheduler stands
        scheduler_options={"dashboard": False, "dashboard_address": _NO_DASHBOARD},
    )


def workers_wanted(settings: ClusterSettings, now: int) -> int:
    """How many workers there may be at a time: batches for so many are kept ready."""
    return settings.adaptive.maximum if settings.adaptive else max(now, settings.workers, 1)


def scale(cluster: Any, settings: ClusterSettings) -> None:
    """Ask for the workers of a cluster whose number changes, or that starts empty."""
    if settings.adaptive:
        cluster.adapt(minimum=settings.adaptive.minimum, maximum=settings.adaptive.maximum, wait_count=10)
    elif settings.kind is ClusterKind.SLURM:
        cluster.scale(jobs=max(1, settings.workers))


def _visible_gpus() -> tuple[int, ...]:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return tuple(range(count)) if listed.returncode == 0 else ()


def worker_count(settings: ClusterSettings, weights: Sequence[Weights]) -> int:
    """How many batches a cluster of this machine will run at a time; 1 where only its scheduler knows."""
    if settings.kind in (ClusterKind.LOCAL, ClusterKind.THREADS):
        return workers_wanted(settings, settings.workers or _fitting_workers(os.cpu_count() or 1, weights))
    return max(1, settings.workers, len(settings.devices))


def _fitting_workers(cores: int, weights: Sequence[Weights]) -> int:
    largest = max((item.parameters for item in weights), default=0)
    per_worker = _WORKER_BASE_BYTES + largest * _BYTES_PER_PARAMETER
    return max(1, min(cores, int(psutil.virtual_memory().available // per_worker)))
