"""Trace of the agent: events to read and to replay."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from medsam3_core.digests import canonical_json


class EventKind(StrEnum):
    """Kind of an event."""

    REQUEST = "request"
    """A request and its interpretation."""
    MODEL = "model"
    """One reply of the language model."""
    TOOL = "tool"
    """One call of a tool with its result."""
    DECISION = "decision"
    """A conclusion of the rules."""
    FAULT = "fault"
    """A malformed, unknown or repeated call."""
    CAP = "cap"
    """A cap that was hit."""
    ANSWER = "answer"
    """Masks, or "absent" with a reason."""


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One event.

    Attributes:
        structure: Requested structure.
        step: Position in the case, from 0.
        turn: Turn of the conversation, from 1; 0 outside one.
        text: The event in a sentence.
        tool: Name of the tool, if one was called.
        arguments: JSON of its arguments, as used.
        result: JSON of its result, or of the answer.
        model: Model that replied.
        endpoint: Host of the endpoint, without path or key.
        request_digest: SHA-256 of the whole request.
        reply: JSON of the whole reply of the model, for replay.
        tokens_in: Tokens sent.
        tokens_out: Tokens received.
        cost: Cost from the price table; None without a price.
        seconds: Duration.
        images: SHA-256 of the pixels of every picture in the request.
    """

    structure: str
    step: int
    turn: int
    kind: EventKind
    text: str
    tool: str | None = None
    arguments: str | None = None
    result: str | None = None
    model: str | None = None
    endpoint: str | None = None
    request_digest: str | None = None
    reply: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    seconds: float | None = None
    images: tuple[str, ...] = ()


@dataclass
class Trace:
    """The events of one case, in order.

    Attributes:
        structure: Current structure.
        turn: Current turn.
        on_answer: Called with all events after each reply of a model, so that paid replies can be saved.
    """

    events: list[TraceEvent] = field(default_factory=list)
    structure: str = ""
    turn: int = 0
    on_answer: Callable[[Sequence[TraceEvent]], None] | None = None

    def add(self, kind: EventKind, text: str, **columns: Any) -> TraceEvent:
        """Record an event; `arguments`, `result` and `reply` may be plain JSON values."""
        for name in ("arguments", "result", "reply"):
            if name in columns and not isinstance(columns[name], str | None):
                columns[name] = canonical_json(columns[name])
        event = TraceEvent(self.structure, len(self.events), self.turn, kind, text, **columns)
        self.events.append(event)
        if kind is EventKind.MODEL and self.on_answer is not None:
            self.on_answer(self.events)
        return event


def stopwatch() -> Callable[[], float]:
    """Start a clock; the result returns the seconds since."""
    started = time.perf_counter()
    return lambda: time.perf_counter() - started
