"""Where people are spoken to: stderr. Stdout carries the answer alone."""

from rich.console import Console

console = Console(stderr=True)


def say(text: str) -> None:
    """One line for the person or the log."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
