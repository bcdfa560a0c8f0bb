"""Imports shared by all forked workers; preloaded by `flows.clusters.forking` and imported by no other module.

Ctrl-C reaches the whole process group but is handled by the driver alone, also during the imports below. The process
from which workers are forked exits with its driver at once, without tearing down its imports.
"""

import atexit
import os
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)

import distributed  # noqa: E402, F401 - after ignoring Ctrl-C

import tasks.ingest  # noqa: E402
import tasks.segment  # noqa: E402, F401


def _end_at_once(pid: int) -> None:
    if os.getpid() == pid:  # forked workers inherit this call and end differently
        os._exit(0)


atexit.register(_end_at_once, os.getpid())
