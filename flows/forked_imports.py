"""What every forked worker needs, imported once; see `flows.worker_forking`, nobody else imports this module.

Ctrl-C reaches the whole process group and is the driver's to hear, also while the imports below take their time.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)

import distributed  # noqa: E402, F401 - deaf to Ctrl-C first

import tasks.ingest_cases  # noqa: E402
import tasks.segment_cases  # noqa: E402, F401
