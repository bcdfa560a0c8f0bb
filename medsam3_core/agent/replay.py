"""Replay of a run from its trace, offline."""

import json
from collections.abc import Iterable

from medsam3_core.agent.budget import Budget, Spent
from medsam3_core.agent.chat import ChatReply, ChatRequest, EndpointError
from medsam3_core.agent.trace import EventKind, TraceEvent
from medsam3_core.settings.agent import RULES

_MAX_TURNS = 1_000
"""Turns of a replay, which ends with its record."""


def requests_of(events: Iterable[TraceEvent]) -> dict[str, str]:
    """Recorded requests, by structure."""
    asked = [event for event in events if event.kind is EventKind.REQUEST]
    return {event.structure: json.loads(event.result or "{}")["words"] for event in asked}


def model_of(events: Iterable[TraceEvent]) -> str:
    """Model of a recorded run; `rules` if there is none."""
    return next((event.model for event in events if event.model), RULES)


class ReplayEndpoint:
    """Returns the recorded replies of one case, in order, to identical requests."""

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
        """Next cap that was hit at this point of the record, if any; requests that met it take turns."""
        here = self._caps.get(self._next)
        return here.pop(0) if here else None

    @property
    def host(self) -> str:
        """Name in place of a host."""
        return "replay"

    def complete(self, request: ChatRequest) -> ChatReply:
        """The next recorded reply.

        Raises:
            EndpointError: If there is none, or it answers another request: image, weights or code differ.
        """
        if self._next >= len(self._recorded):
            msg = f"the trace holds {len(self._recorded)} replies of the model, but the replay needs one more"
            raise EndpointError(msg)
        event = self._recorded[self._next]
        if event.request_digest != request.digest or event.reply is None:
            msg = (
                f"reply {self._next + 1} of the trace belongs to another request: image, weights or code have changed "
                "since"
            )
            raise EndpointError(msg)
        self._next += 1
        return ChatReply.from_json(json.loads(event.reply))


class RecordedBudget(Budget):
    """Caps as recorded, since a replay is faster than the original and free."""

    def __init__(self, endpoint: ReplayEndpoint) -> None:
        self._endpoint = endpoint

    @property
    def turns(self) -> int:
        """Unlimited; the record ends a replay."""
        return _MAX_TURNS

    def pay(self, tokens: int, cost: float | None) -> None:
        """Do nothing."""

    @property
    def spent(self) -> Spent:
        """Zero."""
        return Spent()

    @property
    def seconds_left(self) -> float | None:
        """None: no limit."""
        return None

    def hit(self) -> str | None:
        """The cap recorded at this point."""
        return self._endpoint.stopped_here
