"""What every forked worker needs, imported once; see `flows.clusters.forking`, nobody else imports this module.

Ctrl-C reaches the whole process group and is the driver's to hear, also while the imports below take their time. And
the process that workers are forked from ends with its driver at once, without tearing down what it imported.
"""

import atexit
import os
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)

import distributed  # noqa: E402, F401 - deaf to Ctrl-C first

import tasks.ingest  # noqa: E402
import tasks.segment  # noqa: E402, F401


def _end_at_once(pid: int) -> None:
    if os.getpid() == pid:  # a worker inherits this call and has an end of its own
        os._exit(0)


atexit.register(_end_at_once, os.getpid())
