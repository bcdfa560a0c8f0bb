"""Messages go to stderr and to the log of the flow run; stdout carries results only."""

import logging
from contextlib import suppress

from rich.console import Console

console = Console(stderr=True)


def say(text: str) -> None:
    """Print one line to stderr."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def tell(text: str, *, alarming: bool = False) -> None:
    """Print one line to stderr and log it with the flow run, as a warning if somebody must act."""
    note(text, alarming=alarming)
    say(text)


def note(text: str, *, alarming: bool = False) -> None:
    """Log one line with the flow run only."""
    from prefect.exceptions import MissingContextError  # imported here: a command without a flow does not need Prefect
    from prefect.logging import get_run_logger

    with suppress(MissingContextError):
        get_run_logger().log(logging.WARNING if alarming else logging.INFO, text)
