"""Prefect session of a command: no setup, no wait at the end, no server left behind."""

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
    """Prefect settings for the flows of one command.

    Without `PREFECT_API_URL` a private server is started, which ends with this process. Heartbeats are off there: no
    automation needs them, and their thread costs a second at the end of every flow.

    Raises:
        PrivateServerError: If that server does not start.
    """
    if PREFECT_API_URL.value():
        yield
        return
    url = PrivateServer().api_url()
    atexit.register(APILogHandler().flush)  # sends the last log lines before that server ends
    logging.getLogger("EventsWorker").setLevel(
        logging.ERROR
    )  # it counts the last events while a busy server takes them
    logging.getLogger("prefect.flow_runs").addFilter(_is_unreported)
    logging.getLogger("prefect.task_runs").addFilter(_is_no_error)
    with temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def _is_unreported(record: logging.LogRecord) -> bool:
    """False for tracebacks of our own errors, which the command reports in one line."""
    return record.exc_info is None or not isinstance(record.exc_info[1], Medsam3Error)


def _is_no_error(record: logging.LogRecord) -> bool:
    """False for errors of a task, which end its flow and are reported there."""
    return record.levelno < logging.ERROR
