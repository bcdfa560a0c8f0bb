"""Messages go to stderr, and to the log of the flow run where there is one; stdout carries results only."""

import logging
from contextlib import suppress

from rich.console import Console

console = Console(stderr=True)


def say(text: str) -> None:
    """One line for the person or the log."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def tell(text: str, *, alarming: bool = False) -> None:
    """Say it, and log it with the flow run as information or, where somebody must act, as a warning."""
    note(text, alarming=alarming)
    say(text)


def note(text: str, *, alarming: bool = False) -> None:
    """Log it with the flow run alone, for those who look at a run of last night."""
    from prefect.exceptions import MissingContextError  # seconds that a command without a flow need not wait for
    from prefect.logging import get_run_logger

    with suppress(MissingContextError):
        get_run_logger().log(logging.WARNING if alarming else logging.INFO, text)
