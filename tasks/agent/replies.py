"""Encode requests to a language model; validate its replies.

An answer is untrusted input: it may be endless, contain broken characters, count tokens below zero or repeat our key.
A validated reply is bounded, valid UTF-8, and free of the key.
"""

import base64
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image

from medsam3_core.agent.chat import ChatReply, ChatRequest, Message, Picture, ToolCall

MAX_ANSWER_BYTES = 4_000_000
"""Maximum bytes of one answer; a longer one is refused."""
_MAX_TEXT = 20_000
_MAX_ARGUMENTS = 8_000
_MAX_NAME = 200
_MAX_CALLS = 32
_BYTES_PER_TOKEN = 3
"""Of JSON; most tokenizers need fewer tokens, so that a cap is reached early rather than never."""
_TOKENS_PER_PICTURE = 1_500
_MIN_SECRET = 8
"""Minimum length of a key that is blanked; shorter keys may be ordinary words."""


class AnswerTooLongError(OSError):
    """The answer of an endpoint exceeds `MAX_ANSWER_BYTES`."""


def payload_of(request: ChatRequest) -> dict[str, Any]:
    """Arguments of `chat.completions.create`."""
    tools = [{"type": "function", "function": schema} for schema in request.schemas]
    return {"model": request.model, "messages": [_message(one) for one in request.messages], "tools": tools}


def _message(message: Message) -> dict[str, Any]:
    content: Any = message.text
    if message.pictures:
        content = [{"type": "text", "text": message.text}, *map(_picture, message.pictures)]
    sent: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        sent["tool_calls"] = [
            {"id": one.call_id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
            for one in message.tool_calls
        ]
    if message.tool_call_id is not None:
        sent["tool_call_id"] = message.tool_call_id
    return sent


def _picture(picture: Picture) -> dict[str, Any]:
    """A PNG made of the pixels only, without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(picture.pixels).save(buffer, format="PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def parse_reply(answer: Any, request: ChatRequest, secret: str) -> ChatReply:
    """Validated reply of a chat completion.

    Args:
        answer: Result of the `openai` client.
        request: Its request, from which tokens are estimated if the endpoint does not count them.
        secret: The key, which is blanked if the endpoint repeats it.

    Raises:
        ValueError, TypeError, AttributeError, KeyError, IndexError: If it is not a chat completion.
    """
    message = answer.choices[0].message
    made = list(message.tool_calls or ())[:_MAX_CALLS]
    calls = tuple(
        ToolCall(
            _clean(one.id or f"call-{number}", _MAX_NAME, secret),
            _clean(one.function.name, _MAX_NAME, secret),
            _clean(_arguments(one.function.arguments), _MAX_ARGUMENTS, secret),
        )
        for number, one in enumerate(made)
    )
    text = _clean(message.content or "", _MAX_TEXT, secret)
    counted = (_count(answer.usage, "prompt_tokens"), _count(answer.usage, "completion_tokens"))
    if None not in counted:
        return ChatReply(text, calls, counted[0] or 0, counted[1] or 0)
    written = text + "".join(call.name + call.arguments for call in calls)
    return ChatReply(text, calls, _estimated(request), 1 + len(written.encode()) // _BYTES_PER_TOKEN, estimated=True)


def _arguments(given: Any) -> str:
    """Arguments as JSON text; some servers send the object itself."""
    return json.dumps(given) if isinstance(given, dict) else str(given or "")


def _clean(given: Any, longest: int, secret: str) -> str:
    """Untrusted text without the key, cut, and without broken characters, which no file could hold."""
    text = str(given)
    if len(secret) >= _MIN_SECRET:
        text = text.replace(secret, "***")
    return text[:longest].encode("utf-8", "replace").decode()


def _count(usage: Any, name: str) -> int | None:
    """Tokens as counted by the endpoint; None if the count is missing, zero or invalid."""
    value = getattr(usage, name, None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 1:
        return None
    return int(value)


def _estimated(request: ChatRequest) -> int:
    """Estimated tokens of a request."""
    words = json.dumps([*request.schemas, *(message.as_json() for message in request.messages)], ensure_ascii=False)
    pictures = sum(len(message.pictures) for message in request.messages)
    return 1 + len(words.encode()) // _BYTES_PER_TOKEN + pictures * _TOKENS_PER_PICTURE


def bounded_bodies(deadline: Callable[[], float]) -> Callable[[Any], None]:
    """Hook for the HTTP client that aborts a body after a deadline or beyond `MAX_ANSWER_BYTES`.

    The timeout of the client restarts with every byte, so that a slow endpoint could hold a case for days.

    Args:
        deadline: Gives the deadline of the current answer, in the time of `time.monotonic`.
    """
    library = _http_library()

    class Bounded(library.SyncByteStream):  # type: ignore[name-defined]
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for chunk in self._stream:
                size += len(chunk)
                if size > MAX_ANSWER_BYTES:
                    msg = f"the answer exceeds {MAX_ANSWER_BYTES // 10**6} MB"
                    raise AnswerTooLongError(msg)
                if time.monotonic() > deadline():
                    msg = "the answer is too slow"
                    raise library.ReadTimeout(msg)
                yield chunk

        def close(self) -> None:
            self._stream.close()

    def hook(response: Any) -> None:
        response.stream = Bounded(response.stream)

    return hook


def _http_library() -> Any:
    """The HTTP library under the installed `openai` client: `httpx` of version 2, `httpx2` of version 3."""
    import importlib

    import openai

    return importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
