"""How workers of this machine end: in order, when the driver says so, and without a word."""

import atexit
import logging
import multiprocessing
import os
import signal
import threading

from distributed import Status, Worker, WorkerPlugin
from distributed.comm import CommClosedError

_ENDING = (Status.closing, Status.closed)


class QuietEnd(WorkerPlugin):
    """Ctrl-C reaches the whole process group: workers leave it to the driver, which ends them in order and quietly.

    A worker that ends while its thread is busy would print a hundred lines about objects that DuckDB's bindings leak:
    its process ends without tearing the interpreter down. One that ends while a heartbeat is on its way closes the
    connection under it and would print the traceback of that.
    """

    name = "medsam3-quiet-end"

    def setup(self, worker: Worker) -> None:
        """Called in the main thread of the worker's process, also after a restart."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if multiprocessing.parent_process() is not None:
                atexit.register(os._exit, 0)
                logging.getLogger("distributed.worker").addFilter(OwnEnd(worker))


class OwnEnd(logging.Filter):
    """Leaves out connections that a worker closed by ending itself; those that break while it works are told."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line of the log is news."""
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, CommClosedError) and self._worker.status in _ENDING)
