"""Start a cluster of each kind. Optional packages are imported only by the kind that needs them."""

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
# None would open port 8787 on every interface; this is a free loopback port without pages.
_NO_DASHBOARD = f"{_LOOPBACK}:0"


def make_cluster(settings: ClusterSettings, weights: Sequence[Weights]) -> Any:
    """Start a cluster.

    Args:
        settings: The cluster; not of kind `address`.
        weights: Weights that the workers will hold; their size limits how many fit into memory.

    Raises:
        UsageError: If the kind needs a missing package or device.
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
        env=dict(os.environ),  # a forked worker has the environment of its parent
        memory_limit=settings.memory_limit,
        host=_LOOPBACK,
        dashboard_address=_NO_DASHBOARD,
        scheduler_kwargs={"dashboard": False},
        resources=dict(settings.resources) or None,
    )


def gpu_cluster(settings: ClusterSettings) -> SpecCluster:
    """One worker process per GPU, which sees only that GPU; needs no package beyond Dask.

    Raises:
        UsageError: If this machine has no GPU and the settings name none.
    """
    devices = settings.devices or _visible_gpus()
    devices = devices[: settings.workers] if settings.workers else devices
    if not devices:
        msg = "cluster 'gpu' needs an NVIDIA GPU and this machine has none (nvidia-smi -L); use --cluster local"
        raise UsageError(msg)
    limit = settings.memory_limit if settings.memory_limit != "auto" else 1.0 / len(devices)
    workers = {
        f"gpu-{device}": {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "memory_limit": limit,
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
    """Slurm jobs with one worker each; the scheduler runs in this process.

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
        cores=1,  # one batch at a time, whose numerics use all cores of the job
        processes=1,
        job_cpu=slurm.cores,
        memory=settings.memory_limit if settings.memory_limit != "auto" else f"{8 * slurm.cores}GB",
        job_extra_directives=list(slurm.directives),
        job_script_prologue=[*(f"export {name}={value}" for name, value in ALLOCATION.items()), *slurm.prologue],
        worker_extra_args=["--no-dashboard", *(["--resources", resources] if resources else [])],
        interface=slurm.interface or None,
        log_directory=slurm.log_directory or None,
        job_name="medsam3",
        n_workers=0,  # requested by `scale`
        scheduler_options={"dashboard": False, "dashboard_address": _NO_DASHBOARD},
    )


def workers_wanted(settings: ClusterSettings, now: int) -> int:
    """Maximum number of workers at a time, for which batches are kept ready."""
    return settings.adaptive.maximum if settings.adaptive else max(now, settings.workers, 1)


def scale(cluster: Any, settings: ClusterSettings) -> None:
    """Request the workers of an adaptive cluster, or of one that starts empty."""
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
    """Number of batches that a cluster will run at a time; 1 if only its scheduler knows."""
    if settings.kind in (ClusterKind.LOCAL, ClusterKind.THREADS):
        return workers_wanted(settings, settings.workers or _fitting_workers(os.cpu_count() or 1, weights))
    return max(1, settings.workers, len(settings.devices))


def _fitting_workers(cores: int, weights: Sequence[Weights]) -> int:
    largest = max((item.parameters for item in weights), default=0)
    per_worker = _WORKER_BASE_BYTES + largest * _BYTES_PER_PARAMETER
    return max(1, min(cores, int(psutil.virtual_memory().available // per_worker)))
