"""One loaded segmenter per worker: a Dask plugin loads it when the worker starts or restarts."""

import os

from distributed import Worker, WorkerPlugin, get_worker

from medsam3_core.errors import UsageError
from medsam3_core.inference.protocol import Segmenter
from storage.weights.encodings import CacheSettings, cached
from storage.weights.registry import DEVICE_VARIABLE, load_segmenter
from storage.weights.weights import Weights

_NAME = "medsam3-segmenter"


class SegmenterPlugin(WorkerPlugin):
    """Loads weights in the process of the worker; registering other weights under the same name replaces them."""

    name = _NAME
    idempotent = False  # True would keep the old weights when new ones are registered

    def __init__(self, weights: Weights, threads_per_worker: int, cache: CacheSettings | None = None) -> None:
        self.weights = weights
        self._cache = cache
        self._threads = threads_per_worker
        self.segmenter: Segmenter | None = None

    def setup(self, worker: Worker) -> None:
        """Load the weights on the device of this worker.

        Raises:
            UsageError: If the worker has several threads, which would share the weights.
        """
        if self.weights.path is None:  # baselines need no torch, and torch costs seconds to import
            self.segmenter = load_segmenter(self.weights, "cpu")
            return
        if worker.state.nthreads > 1:
            msg = (
                f"worker {worker.address} runs {worker.state.nthreads} tasks at a time, but loaded weights serve only "
                "one; start it with --nthreads 1"
            )
            raise UsageError(msg)
        import torch

        torch.set_num_threads(self._threads)
        device = "cuda:0" if torch.cuda.is_available() else "cpu"  # one process per GPU, see the cluster factory
        segmenter = load_segmenter(self.weights, os.environ.get(DEVICE_VARIABLE, device))
        self.segmenter = cached(segmenter, self.weights.sha256, self._cache)

    def teardown(self, worker: Worker) -> None:
        """Free the weights."""
        self.segmenter = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "segmenter": None}


def current_segmenter(weights: Weights) -> Segmenter:
    """The segmenter of the worker that runs this task.

    Raises:
        RuntimeError: If the worker holds other weights: a fault of the batch, not of a case.
    """
    plugin = get_worker().plugins.get(_NAME)
    if plugin is None or plugin.segmenter is None or plugin.weights.sha256 != weights.sha256:
        held = plugin.weights.name if plugin else "no weights"
        msg = f"this worker holds {held}, the batch needs {weights.name}@{weights.version}"
        raise RuntimeError(msg)
    segmenter: Segmenter = plugin.segmenter
    return segmenter


EXIT_CODE = 86
"""Exit code of a worker whose accelerator is broken; its nanny starts another one."""
_TYPE = "AcceleratorError"
_WORDS = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "NCCL error", "device-side assert")


def is_of_the_accelerator(error: BaseException) -> bool:
    """True for unrecoverable accelerator errors; out of memory is not one.

    After an illegal access, an assertion on the device or a lost device every later call in the process fails at once.
    A worker that continued would quickly record case after case as failed.
    """
    if type(error).__name__ == "OutOfMemoryError":
        return False
    known = type(error).__name__ == _TYPE or (isinstance(error, RuntimeError) and str(error).startswith(_WORDS))
    return known and "out of memory" not in str(error)


def end_worker() -> None:
    """End this process like a killed worker: its batch runs again, and the case at fault gets a strike."""
    os._exit(EXIT_CODE)
