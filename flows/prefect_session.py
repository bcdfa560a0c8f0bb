"""What a command needs from Prefect: nothing to set up, no second of waiting at the end, no server left behind."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)


@contextmanager
def prefect_session() -> Iterator[None]:
    """Settings for flows of one command.

    Without `PREFECT_API_URL` Prefect starts a server of its own for the length of this process. Nobody watches that
    one for missing heartbeats, and its heartbeat thread costs a second at the end of every flow: it is off.
    """
    if PREFECT_API_URL.value():
        yield
        return
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield
