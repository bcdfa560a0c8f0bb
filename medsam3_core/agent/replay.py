"""An endpoint that answers from a trace: the run is repeated without anybody being asked."""

import json
from collections.abc import Iterable

from medsam3_core.agent.budget import Budget, Spent
from medsam3_core.agent.chat import ChatReply, ChatRequest, EndpointError
from medsam3_core.agent.trace import EventKind, TraceEvent
from medsam3_core.settings.agent import RULES

HOST = "replay"
_UNBOUNDED = 1_000
"""Turns of a replay: the record ends it."""


def requests_of(events: Iterable[TraceEvent]) -> dict[str, str]:
    """What was asked for, by structure."""
    asked = [event for event in events if event.kind is EventKind.REQUEST]
    return {event.structure: json.loads(event.result or "{}")["words"] for event in asked}


def model_of(events: Iterable[TraceEvent]) -> str:
    """Which model was asked; `rules` where none was."""
    return next((event.model for event in events if event.model), RULES)


class ReplayEndpoint:
    """Gives the recorded replies of one case, in order, to the very requests that they answered."""

    def __init__(self, events: Iterable[TraceEvent]) -> None:
        ordered = sorted(events, key=lambda event: event.step)
        self._recorded = [event for event in ordered if event.kind is EventKind.MODEL]
        self._next = 0
        self._caps: dict[int, list[str]] = {}
        for event in ordered:
            if event.kind is EventKind.CAP:
                answered = sum(one.step < event.step for one in self._recorded)
                self._caps.setdefault(answered, []).append(event.text.removeprefix("stopped: "))

    @property
    def stopped_here(self) -> str | None:
        """The cap that was hit at this point of the record, by each request that met it: one after the other."""
        here = self._caps.get(self._next)
        return here.pop(0) if here else None

    @property
    def host(self) -> str:
        """No host."""
        return HOST

    def complete(self, request: ChatRequest) -> ChatReply:
        """The next recorded reply.

        Raises:
            EndpointError: If there is none, or it answered another request: the image, the weights or the code differ.
        """
        if self._next >= len(self._recorded):
            msg = f"the trace holds {len(self._recorded)} answers of the model, the replay asks for one more"
            raise EndpointError(msg)
        event = self._recorded[self._next]
        if event.request_digest != request.digest or event.reply is None:
            msg = (
                f"answer {self._next + 1} of the trace belongs to another request; image, weights or code are not "
                "those of the trace"
            )
            raise EndpointError(msg)
        self._next += 1
        return ChatReply.from_json(json.loads(event.reply))


class RecordedBudget(Budget):
    """Caps are hit where the record says so: a replay is faster than what it repeats, and costs nothing."""

    def __init__(self, endpoint: ReplayEndpoint) -> None:
        self._endpoint = endpoint

    @property
    def turns(self) -> int:
        """As many as the record has."""
        return _UNBOUNDED

    def pay(self, tokens: int, cost: float | None) -> None:
        """Nothing is paid."""

    @property
    def spent(self) -> Spent:
        """Nothing."""
        return Spent()

    @property
    def seconds_left(self) -> float | None:
        """As long as it takes."""
        return None

    def hit(self) -> str | None:
        """The cap that was hit here."""
        return self._endpoint.stopped_here
