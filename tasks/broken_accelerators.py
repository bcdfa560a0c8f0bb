"""Errors after which an accelerator answers nothing any more, in this process.

An illegal access, an assertion on the device or a device that fell off the bus stay: every later call in the process
fails at once. A worker that went on would record case after case as failed, faster than any other works.
"""

import os

EXIT_CODE = 86
"""Of a worker that ends because its accelerator is broken; its nanny starts another one."""
_TYPE = "AcceleratorError"
_WORDS = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "NCCL error", "device-side assert")


def is_of_the_accelerator(error: BaseException) -> bool:
    """Whether an error says that the accelerator is broken; a full memory is none."""
    if type(error).__name__ == "OutOfMemoryError":
        return False
    known = type(error).__name__ == _TYPE or (isinstance(error, RuntimeError) and str(error).startswith(_WORDS))
    return known and "out of memory" not in str(error)


def end_worker() -> None:
    """End this process as a killed worker ends: what it had in hand is done again, and the case at fault is struck."""
    os._exit(EXIT_CODE)
