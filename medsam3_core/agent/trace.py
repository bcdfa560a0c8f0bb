"""What happened while the agent worked, event by event: enough to read it as a story and to repeat it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from medsam3_core.digests import canonical_json


class EventKind(StrEnum):
    """What an event is."""

    REQUEST = "request"
    """What was asked, and how it was understood."""
    MODEL = "model"
    """One answer of the language model."""
    TOOL = "tool"
    """One call of a tool with its result."""
    DECISION = "decision"
    """A conclusion of the rules."""
    FAULT = "fault"
    """Something malformed, unknown or repeated, and what was done about it."""
    CAP = "cap"
    """A bound that was hit."""
    ANSWER = "answer"
    """Masks, or a reasoned "absent"."""


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One event.

    Attributes:
        structure: Structure that was asked for.
        step: Position in the case, from 0.
        turn: Turn of the conversation, from 1; 0 outside one.
        kind: What it is.
        text: The event in a sentence.
        tool: Name of the tool, if one was called.
        arguments: JSON of its arguments, as they were used.
        result: JSON of its result, or of the answer.
        model: Model that answered.
        endpoint: Host that was asked, without path or key.
        request_digest: SHA-256 of all that was sent.
        reply: JSON of the whole answer of the model, from which it can be replayed.
        tokens_in: Tokens sent.
        tokens_out: Tokens received.
        cost: Money by the price table; None where no price is known.
        seconds: Time it took.
        images: SHA-256 of the pixels of every picture that was sent with this request.
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
        events: What has happened so far.
        structure: Structure at hand.
        turn: Turn at hand.
        on_answer: Told the events until then whenever a model has answered: what was paid for must not be lost.
    """

    events: list[TraceEvent] = field(default_factory=list)
    structure: str = ""
    turn: int = 0
    on_answer: Callable[[Sequence[TraceEvent]], None] | None = None

    def add(self, kind: EventKind, text: str, **columns: Any) -> TraceEvent:
        """Note an event; `arguments`, `result` and `reply` may be plain JSON values."""
        for name in ("arguments", "result", "reply"):
            if name in columns and not isinstance(columns[name], str | None):
                columns[name] = canonical_json(columns[name])
        event = TraceEvent(self.structure, len(self.events), self.turn, kind, text, **columns)
        self.events.append(event)
        if kind is EventKind.MODEL and self.on_answer is not None:
            self.on_answer(self.events)
        return event


@contextmanager
def stopwatch(clock: Callable[[], float] = time.perf_counter) -> Iterator[Callable[[], float]]:
    """Seconds since it was started, whenever asked."""
    started = clock()
    yield lambda: clock() - started


def facts_in_words(facts: Mapping[str, Any]) -> str:
    """Numbers for a sentence: `count 2, volume 12.1 ml`."""
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
