"""Talking to a language model, as far as the core knows: messages with words, numbers and at times pictures."""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medsam3_core.digests import digest_array, digest_json
from medsam3_core.errors import Medsam3Error


class EndpointError(Medsam3Error):
    """An endpoint did not answer, after all tries; the case is recorded as failed."""


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels that are shown: uint8, shape (y, x, 3), and nothing else of the image."""

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
        text: Words.
        pictures: Pictures, of a user's message only.
        tool_calls: Calls that an assistant made, as the endpoint gave them.
        tool_call_id: Which call a tool's message answers.
    """

    role: str
    text: str
    pictures: tuple[Picture, ...] = ()
    tool_calls: tuple["ToolCall", ...] = ()
    tool_call_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        """All that identifies the message; pictures by digest."""
        return {
            "role": self.role,
            "text": self.text,
            "pictures": [one.digest for one in self.pictures],
            "calls": [[one.call_id, one.name, one.arguments] for one in self.tool_calls],
            "answers": self.tool_call_id,
        }


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as a model wrote it; name and arguments are what it says, not yet what is done."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, eq=False)
class ChatRequest:
    """What is asked of a model.

    Attributes:
        model: Name of the model.
        messages: The conversation so far.
        schemas: JSON schemas of the tools, by name, with their description.
        seconds_left: How long an answer may take; None for as long as the endpoint's own limit.
    """

    model: str
    messages: tuple[Message, ...]
    schemas: tuple[dict[str, Any], ...]
    seconds_left: float | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all that is sent."""
        sent = [message.as_json() for message in self.messages]
        return digest_json({"model": self.model, "messages": sent, "tools": list(self.schemas)})


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What a model answered.

    Attributes:
        text: Its words.
        tool_calls: Its calls.
        tokens_in: Tokens that it read.
        tokens_out: Tokens that it wrote.
        tries: How often it had to be asked.
        estimated: Whether the endpoint counts no tokens, so that they are estimated.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    tries: int = 1
    estimated: bool = False

    def as_json(self) -> dict[str, Any]:
        """The whole reply; `from_json` reads it back."""
        calls = [[one.call_id, one.name, one.arguments] for one in self.tool_calls]
        return {"text": self.text, "calls": calls, "tokens_in": self.tokens_in, "tokens_out": self.tokens_out}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ChatReply":
        """The way back from `as_json`."""
        calls = tuple(ToolCall(*one) for one in value["calls"])
        return cls(value["text"], calls, value["tokens_in"], value["tokens_out"])


class ChatEndpoint(Protocol):
    """Something that answers."""

    @property
    def host(self) -> str:
        """Which host, for the trace; without path or key."""
        ...

    def complete(self, request: ChatRequest) -> ChatReply:
        """Answer.

        Raises:
            EndpointError: If it does not, after all tries.
        """
        ...


@dataclass(frozen=True, slots=True)
class Price:
    """Money per million tokens.

    Raises:
        ValueError: If it is negative or no number: caps on money could not be kept.
    """

    tokens_in: float
    tokens_out: float

    def __post_init__(self) -> None:
        for price in (self.tokens_in, self.tokens_out):
            if not (math.isfinite(price) and price >= 0):
                msg = f"price of {price} per million tokens must be 0 or above"
                raise ValueError(msg)

    def of(self, reply: ChatReply) -> float:
        """What an answer costs."""
        return (reply.tokens_in * self.tokens_in + reply.tokens_out * self.tokens_out) / 1e6


@dataclass(frozen=True, eq=False)
class ModelAccess:
    """A model that may be asked.

    Attributes:
        endpoint: Where.
        price: By the price table; None where it has none.
        shows_pixels: Whether pictures may be sent there.
    """

    endpoint: ChatEndpoint
    price: Price | None = field(default=None)
    shows_pixels: bool = False
