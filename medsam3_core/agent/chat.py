"""Messages, requests and replies of a language model, and the protocol of its endpoint."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medsam3_core.digests import digest_array, digest_json
from medsam3_core.errors import Medsam3Error


class EndpointError(Medsam3Error):
    """An endpoint did not answer after all tries; the case is recorded as failed."""


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels sent to a model, uint8 of shape (y, x, 3), without any other data of the image."""

    pixels: NDArray[np.uint8]

    @property
    def digest(self) -> str:
        """SHA-256 of type, shape and pixels."""
        return digest_array(self.pixels)


@dataclass(frozen=True, eq=False)
class Message:
    """One message of a conversation.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        pictures: Pictures, in messages of a user only.
        tool_calls: Calls of an assistant, as received.
        tool_call_id: Call that a message of a tool answers.
    """

    role: str
    text: str
    pictures: tuple[Picture, ...] = ()
    tool_calls: tuple["ToolCall", ...] = ()
    tool_call_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Identity of the message; pictures by digest."""
        return {
            "role": self.role,
            "text": self.text,
            "pictures": [one.digest for one in self.pictures],
            "calls": [[one.call_id, one.name, one.arguments] for one in self.tool_calls],
            "answers": self.tool_call_id,
        }


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as the model wrote it, not validated."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, eq=False)
class ChatRequest:
    """A request to a model.

    Attributes:
        schemas: Name, description and JSON schema of each tool.
        seconds_left: Time limit of the reply; None for the endpoint's own.
    """

    model: str
    messages: tuple[Message, ...]
    schemas: tuple[dict[str, Any], ...]
    seconds_left: float | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of everything that is sent."""
        sent = [message.as_json() for message in self.messages]
        return digest_json({"model": self.model, "messages": sent, "tools": list(self.schemas)})


@dataclass(frozen=True, slots=True)
class ChatReply:
    """Reply of a model.

    Attributes:
        tokens_in: Tokens read.
        tokens_out: Tokens written.
        tries: Requests needed.
        estimated: True if tokens are estimated, since the endpoint does not count them.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    tries: int = 1
    estimated: bool = False

    def as_json(self) -> dict[str, Any]:
        """The whole reply, for `from_json`."""
        calls = [[one.call_id, one.name, one.arguments] for one in self.tool_calls]
        return {"text": self.text, "calls": calls, "tokens_in": self.tokens_in, "tokens_out": self.tokens_out}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ChatReply":
        """Restore a reply from `as_json`."""
        calls = tuple(ToolCall(*one) for one in value["calls"])
        return cls(value["text"], calls, value["tokens_in"], value["tokens_out"])


class ChatEndpoint(Protocol):
    """Endpoint of a language model."""

    @property
    def host(self) -> str:
        """Host name for the trace, without path or key."""
        ...

    def complete(self, request: ChatRequest) -> ChatReply:
        """Answer a request.

        Raises:
            EndpointError: If there is no reply after all tries.
        """
        ...


@dataclass(frozen=True, slots=True)
class Price:
    """Money per million tokens.

    Raises:
        ValueError: If it is negative or not finite: caps on money would fail.
    """

    tokens_in: float
    tokens_out: float

    def __post_init__(self) -> None:
        for price in (self.tokens_in, self.tokens_out):
            if not (math.isfinite(price) and price >= 0):
                msg = f"price of {price} per million tokens must be 0 or above"
                raise ValueError(msg)

    def of(self, reply: ChatReply) -> float:
        """Cost of a reply."""
        return (reply.tokens_in * self.tokens_in + reply.tokens_out * self.tokens_out) / 1e6


@dataclass(frozen=True, eq=False)
class ModelAccess:
    """A model's endpoint, its price (None if unknown), and permission to send pictures."""

    endpoint: ChatEndpoint
    price: Price | None = None
    shows_pixels: bool = False
