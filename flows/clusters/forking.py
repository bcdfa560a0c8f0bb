"""Fork local worker processes from one process that has imported everything.

torch and transformers take 5 seconds of CPU to import, in every worker and in every replacement. Python's forkserver
imports them once, while the driver imports Prefect and waits for its server. Workers then start within a fraction of a
second and share the memory of the imports.

CUDA does not survive a fork once it is initialised, and an import may initialise it. On machines with an accelerator,
and on systems other than Linux, workers are therefore spawned. Dask's variable
`DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD=spawn` has the same effect everywhere.
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
_METHOD_VARIABLE = "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD"
_ACCELERATORS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
# The path of a socket below it may have 107 bytes.
_MAX_TEMPORARY_FOLDER = 70
# Set by Dask before it spawns a worker; libraries read them while they are loaded.
_NUMERICS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def forks(settings: ClusterSettings) -> bool:
    """True if the workers of a cluster are forked."""
    return (
        settings.kind is ClusterKind.LOCAL
        and sys.platform == "linux"
        and _METHOD_VARIABLE not in os.environ
        and not any(Path(device).exists() for device in _ACCELERATORS)
        and len(os.fsencode(tempfile.gettempdir())) <= _MAX_TEMPORARY_FOLDER
    )


def begin_forking(settings: ClusterSettings, weights: Sequence[Weights], *, model: bool = False) -> None:
    """Start the process from which workers are forked, if they are; it imports in the background.

    Args:
        settings: The cluster to be started.
        weights: Weights that the workers will hold; tensors need torch.
        model: True if the workers will hold tensors that are not in `weights`.
    """
    if not forks(settings):
        return
    model = model or any(item.path is not None for item in weights)
    multiprocessing.get_context("forkserver").set_forkserver_preload([_WORK, *([_MODEL] if model else [])])
    with _environment(_NUMERICS):
        forkserver.ensure_running()


@contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are unset, for processes started in this block."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
