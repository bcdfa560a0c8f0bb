"""One line for people wherever they look: stderr, and the log of the flow run where there is one."""

import logging
from contextlib import suppress

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from flows.console import say


def tell(text: str, *, alarming: bool = False) -> None:
    """Say it, and log it with the flow run as information or, where somebody must act, as a warning."""
    note(text, alarming=alarming)
    say(text)


def note(text: str, *, alarming: bool = False) -> None:
    """Log it with the flow run alone, for those who look at a run of last night."""
    with suppress(MissingContextError):
        get_run_logger().log(logging.WARNING if alarming else logging.INFO, text)
