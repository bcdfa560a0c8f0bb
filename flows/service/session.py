"""What a command needs from Prefect: nothing to set up, no second of waiting at the end, no server left behind."""

import atexit
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.service.private import PrivateServer
from medsam3_core.errors import Medsam3Error


@contextmanager
def prefect_session() -> Iterator[None]:
    """Settings for flows of one command.

    Without `PREFECT_API_URL` a private server is started, which ends with this process: the last events reach it at
    exit. Nobody watches it for missing heartbeats, and Prefect's heartbeat thread costs a second at the end of every
    flow: it is off there.

    Raises:
        PrivateServerError: If that server does not start.
    """
    if PREFECT_API_URL.value():
        yield
        return
    url = PrivateServer().api_url()
    atexit.register(APILogHandler().flush)  # the last lines of the log are sent before that server ends
    logging.getLogger("prefect.flow_runs").addFilter(_is_news)
    logging.getLogger("prefect.task_runs").addFilter(_is_no_error)
    with temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of the log is more than the traceback of an error that the command itself says in a sentence."""
    return record.exc_info is None or not isinstance(record.exc_info[1], Medsam3Error)


def _is_no_error(record: logging.LogRecord) -> bool:
    """Whether a line of a task's log is no error: that of a task ends its flow, which says it."""
    return record.levelno < logging.ERROR
