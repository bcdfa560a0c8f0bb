"""Quiet end of local workers: when the driver ends them, and without messages."""

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
    """Makes workers ignore Ctrl-C, which reaches the whole process group; the driver ends them in order.

    A worker that ends while its thread is busy would print a hundred lines about objects leaked by DuckDB's bindings:
    its process exits without tearing the interpreter down. A worker that ends during a heartbeat would print a
    traceback about its own connection: such errors are filtered.
    """

    name = "medsam3-quiet-end"

    def setup(self, worker: Worker) -> None:
        """Set up the worker; called in the main thread of its process, also after a restart."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if multiprocessing.parent_process() is not None:
                atexit.register(os._exit, 0)
                logging.getLogger("distributed.worker").addFilter(OwnEnd(worker))


class OwnEnd(logging.Filter):
    """Hides errors of connections that a worker closed by ending; those that break during work are logged."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a connection that the ending worker closed."""
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, CommClosedError) and self._worker.status in _ENDING)
