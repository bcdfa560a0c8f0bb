"""Local worker processes are forked from one process that has imported everything, instead of importing it each.

torch and transformers take 5 seconds of CPU to import, in every worker, and again when one is replaced. Python's
forkserver imports them once, in a process that starts no thread of ours and reads no case, while the driver imports
Prefect and waits for its server; workers then start within a fraction of a second and share the memory of the imports.

CUDA does not survive a fork once it is initialised, and an import may do that: where there is an accelerator, and on
other systems than Linux, workers are spawned and import for themselves. Dask's own variable
`DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD=spawn` asks for that everywhere.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path

from flows.settings.clusters import ClusterKind, ClusterSettings
from storage.weights.weights import Weights

_WORK, _MODEL = "flows.clusters.forked_imports", "storage.weights.checkpoints"
_CHOSEN_BY_THE_USER = "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD"
_ACCELERATORS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
# A socket lies below it, whose whole path may have 107 bytes.
_LONGEST_TEMPORARY = 70
# What Dask sets before it spawns a worker, because libraries read it while they are loaded.
_NUMERICS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def forks(settings: ClusterSettings) -> bool:
    """Whether the workers of a cluster are forked."""
    return (
        settings.kind is ClusterKind.LOCAL
        and sys.platform == "linux"
        and _CHOSEN_BY_THE_USER not in os.environ
        and not any(Path(device).exists() for device in _ACCELERATORS)
        and len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TEMPORARY
    )


def begin_forking(settings: ClusterSettings, weights: Sequence[Weights], *, model: bool = False) -> None:
    """Start the process that workers are forked from, if they are; it imports in the background. Once is enough.

    Args:
        settings: Which cluster will be started.
        weights: What the workers will hold: tensors need torch.
        model: Whether they will hold tensors that are not known yet.
    """
    if not forks(settings):
        return
    model = model or any(item.path is not None for item in weights)
    multiprocessing.get_context("forkserver").set_forkserver_preload([_WORK, *([_MODEL] if model else [])])
    with _environment(_NUMERICS):
        forkserver.ensure_running()


@contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Variables that are not set already, for processes that are started in this block."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
