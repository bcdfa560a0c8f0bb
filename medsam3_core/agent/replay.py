"""An endpoint that answers from a trace: the run is repeated without anybody being asked."""

import json
from collections.abc import Iterable

from medsam3_core.agent.budget import Budget, Spent
from medsam3_core.agent.chat import ChatReply, ChatRequest, EndpointError
from medsam3_core.agent.trace import EventKind, TraceEvent

HOST = "replay"
_OWN_CAP = "stopped: agent_turns"
"""The cap on turns is hit again by itself."""


class ReplayEndpoint:
    """Gives the recorded replies of one case, in order, to the very requests that they answered."""

    def __init__(self, events: Iterable[TraceEvent]) -> None:
        ordered = sorted(events, key=lambda event: event.step)
        self._recorded = [event for event in ordered if event.kind is EventKind.MODEL]
        self._next = 0
        self._caps: dict[int, str] = {}
        for event in ordered:
            if event.kind is EventKind.CAP and not event.text.startswith(_OWN_CAP):
                answered = sum(one.step < event.step for one in self._recorded)
                self._caps[answered] = event.text.removeprefix("stopped: ")

    @property
    def stopped_here(self) -> str | None:
        """The cap of time or money that was hit at this point of the record; each is told once."""
        return self._caps.pop(self._next, None)

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
