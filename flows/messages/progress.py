"""Progress: a bar on a terminal, plain lines in a log, an artifact in Prefect."""

import contextvars
import queue
import sys
import threading
import time
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import get_run_context
from prefect.exceptions import MissingContextError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flows.messages.console import console, say
from flows.messages.formatting import format_counts
from tasks.stream.stream import StreamCounts

_LINE_EVERY_SECONDS = 10.0
_ARTIFACT_EVERY_SECONDS = 2.0


class ProgressReporter:
    """Shows the progress of one stream until it is closed."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total = title, total
        self._bar: Progress | None = None
        self._last_line = time.monotonic()
        if sys.stderr.isatty() and total:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                console=console, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task(title, total=total)
            self._bar.start()
        self._artifact = _ArtifactThread(title)

    def update(self, counts: StreamCounts) -> None:
        """Show the counts; returns at once, also if the server does not answer."""
        if self._bar:
            self._bar.update(self._task, completed=counts.done)
        elif time.monotonic() - self._last_line >= _LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            say(f"{self._title}: {counts.done}/{self._total} {format_counts(counts.statuses)}")
        self._artifact.put(100.0 * counts.done / max(1, self._total))

    def close(self) -> None:
        """Remove the bar and end the artifact thread."""
        if self._bar:
            self._bar.stop()
        self._artifact.close()


class _ArtifactThread:
    """Updates a Prefect progress artifact from a side thread, so that a slow server never blocks the work."""

    def __init__(self, title: str) -> None:
        self._values: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        self._last = 0.0
        self._thread: threading.Thread | None = None
        try:
            get_run_context()
        except MissingContextError:
            return
        key = "".join(letter if letter.isalnum() else "-" for letter in title.lower()).strip("-")
        context = contextvars.copy_context()  # Prefect finds the flow run through it
        self._thread = threading.Thread(target=context.run, args=(self._run, key), daemon=True)
        self._thread.start()

    def put(self, percent: float) -> None:
        if self._thread and time.monotonic() - self._last >= _ARTIFACT_EVERY_SECONDS:
            self._last = time.monotonic()
            self._values.put(percent)

    def close(self) -> None:
        if self._thread:
            self._values.put(None)
            self._thread.join(timeout=1.0)

    def _run(self, key: str) -> None:
        artifact = None
        while (value := self._values.get()) is not None:
            try:
                if artifact is None:
                    artifact = cast("UUID", create_progress_artifact(value, key=key))
                else:
                    update_progress_artifact(artifact, progress=value)
            except Exception as error:  # noqa: BLE001 - work continues without the artifact
                say(f"progress artifact {key!r} is disabled: {type(error).__name__}")
                return
