"""A language model behind any OpenAI-compatible endpoint, and the rules for its use.

Nothing is sent unless a URL is configured and a model is named. A loopback endpoint is reached directly, without the
proxies of the environment, and no redirect is followed: requests reach the configured host or fail.
"""

import email.utils
import ipaddress
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from medsam3_core.agent.chat import ChatReply, ChatRequest, EndpointError, ModelAccess, Price
from medsam3_core.errors import UsageError
from medsam3_core.settings.agent import PIXELS_OFF, PIXELS_ON, AgentSettings
from medsam3_core.settings.extras import Extra, require_extra
from tasks.agent.replies import AnswerTooLongError, bounded_bodies, parse_reply, payload_of

URL_VARIABLE, MODEL_VARIABLE, KEY_VARIABLE = "MEDSAM3_AGENT_URL", "MEDSAM3_AGENT_MODEL", "MEDSAM3_AGENT_KEY"
_MAX_WAIT = 30.0
"""Maximum seconds between two attempts, also if the endpoint asks for more."""
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_FREE = Price(0.0, 0.0)
_UNSENT = (
    "OpenAI-Organization",
    "OpenAI-Project",
    *(
        f"X-Stainless-{fact}"
        for fact in ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")
    ),
)
"""Headers of the client that are removed: they name the account of the environment and this machine."""


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Endpoint of language models, as a site configures it; safe to send to workers, since it holds no key.

    Attributes:
        url: Base URL, such as `http://127.0.0.1:11434/v1`; empty for none.
        key_variable: Environment variable that holds the key, on every machine that uses the endpoint.
        timeout_seconds: Maximum time for one answer.
        tries: Attempts before the case counts as failed.
        backoff_seconds: Pause before the second attempt; it doubles each time.
        prices: Model to its price.
    """

    url: str = ""
    key_variable: str = KEY_VARIABLE
    timeout_seconds: float = 120.0
    tries: int = 4
    backoff_seconds: float = 1.0
    prices: Mapping[str, Price] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """Host of the URL; empty without one."""
        return urlsplit(self.url).hostname or ""


def is_loopback(host: str) -> bool:
    """True if a host is this machine, by its name or address alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def require_client(settings: AgentSettings) -> None:
    """Refuse a model if the client of endpoints is not installed.

    Raises:
        UsageError: Names the extra that installs it.
    """
    if settings.uses_model:
        require_extra(Extra.AGENT, f"agent_model={settings.agent_model}", "openai")


def require_allowed(settings: AgentSettings, endpoint: EndpointSettings, *, texts_of_dicom: bool = False) -> None:
    """Refuse requests that must not be sent, before anything is computed.

    Args:
        settings: Model, caps and sharing.
        endpoint: Endpoint of the requests.
        texts_of_dicom: True if the requests may come from DICOM files instead of a person or a recipe.

    Raises:
        UsageError: If a model is named without an endpoint, pixels would go to a host that is not named, text of
            DICOM files would leave the machine, a cap on cost needs an unknown price, the key or the URL is invalid, or
            the client is not installed.
    """
    require_client(settings)
    if not settings.uses_model:
        if settings.share_pixels != PIXELS_OFF:
            msg = f"share_pixels={settings.share_pixels} without a model: name one with --set agent_model=NAME"
            raise UsageError(msg)
        return
    host, scheme = endpoint.host, urlsplit(endpoint.url).scheme
    if "@" in endpoint.url or "\\" in endpoint.url:  # not shown: it may hold a password
        msg = (
            f"the URL of the endpoint contains a user or a password; remove them and put the key into "
            f"{endpoint.key_variable}"
        )
        raise UsageError(msg)
    if not host or scheme not in ("http", "https"):
        msg = (
            f"agent_model={settings.agent_model} needs an endpoint, got {endpoint.url!r}; set {URL_VARIABLE}, such as "
            "http://127.0.0.1:11434/v1, or [agent] url in medsam3.toml"
        )
        raise UsageError(msg)
    key_of(endpoint)
    local = is_loopback(host)
    if settings.share_pixels not in ((PIXELS_OFF, PIXELS_ON, host) if local else (PIXELS_OFF, host)):
        msg = (
            f"share_pixels={settings.share_pixels} does not allow sending pictures to {host}, which is "
            f"{'this' if local else 'another'} machine; write share_pixels={host} to allow it, or share_pixels=off"
        )
        raise UsageError(msg)
    if texts_of_dicom and not local:
        msg = (
            f"the structures of this cohort may be named by DICOM files (reader archive), whose text must not be sent "
            f"to {host}; use an endpoint on this machine, or segment with your own requests (--text)"
        )
        raise UsageError(msg)
    if price_of(settings.agent_model, endpoint) is None and (settings.agent_cost or settings.agent_run_cost):
        msg = (
            f"the price of {settings.agent_model} is unknown, so a cap on cost cannot be kept; add it under "
            "[agent.prices] in medsam3.toml, or set agent_cost=0 and agent_run_cost=0"
        )
        raise UsageError(msg)


def price_of(model: str, endpoint: EndpointSettings) -> Price | None:
    """Price of a model in the table; a model on this machine without a price is free."""
    return endpoint.prices.get(model, _FREE if is_loopback(endpoint.host) else None)


def key_of(endpoint: EndpointSettings) -> str:
    """The key of the environment, without white space around it; empty for none.

    Raises:
        UsageError: If it is not valid in a header; the key itself is not shown.
    """
    key = os.environ.get(endpoint.key_variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        msg = f"the key in {endpoint.key_variable} contains characters not allowed in an API key; set it again"
        raise UsageError(msg)
    return key


def open_access(settings: AgentSettings, endpoint: EndpointSettings) -> ModelAccess | None:
    """The model that these settings may ask; None for the rules.

    Raises:
        UsageError: As `require_allowed`.
    """
    require_allowed(settings, endpoint)
    if not settings.uses_model:
        return None
    price = price_of(settings.agent_model, endpoint)
    return ModelAccess(OpenAIEndpoint(endpoint), price, settings.share_pixels != PIXELS_OFF)


class OpenAIEndpoint:
    """Chat completions through the `openai` client, with our own retries.

    Raises:
        UsageError: If the key is invalid.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        import openai

        self._settings, self._key = settings, key_of(settings)
        self._deadline = 0.0
        local = is_loopback(settings.host)
        headers: Any = {"Accept-Encoding": "identity", "User-Agent": "medsam3"}
        headers |= dict.fromkeys(_UNSENT, openai.omit)
        self._client = openai.OpenAI(
            base_url=settings.url,
            api_key=self._key or "none",
            max_retries=0,
            timeout=settings.timeout_seconds,
            default_headers=headers,
            http_client=openai.DefaultHttpxClient(
                trust_env=not local,
                follow_redirects=False,
                event_hooks={"response": [bounded_bodies(lambda: self._deadline)]},
            ),
        )

    @property
    def host(self) -> str:
        """Host of the endpoint."""
        return self._settings.host

    def complete(self, request: ChatRequest) -> ChatReply:
        """Send a request, and again after temporary errors, until there is an answer or no attempt is left.

        Raises:
            EndpointError: With the error of the last attempt.
        """
        started, problem, tries = time.monotonic(), "", 0
        while tries < self._settings.tries:
            left = None if request.seconds_left is None else request.seconds_left - (time.monotonic() - started)
            if left is not None and left <= 0:
                problem = problem or "no time left"
                break
            tries += 1
            reply, problem, wait = self._try(request, left)
            if reply is not None:
                return replace(reply, tries=tries)
            if wait is None:
                break
            if tries < self._settings.tries:
                pause = min(max(wait, self._settings.backoff_seconds * 2 ** (tries - 1)), _MAX_WAIT)
                time.sleep(min(pause * random.uniform(1.0, 1.25), left if left is not None else pause * 2))
        msg = f"the model at {self.host} did not answer after {tries} {'try' if tries == 1 else 'tries'}: {problem}"
        raise EndpointError(msg)

    def _try(self, request: ChatRequest, left: float | None) -> tuple[ChatReply | None, str, float | None]:
        """One attempt: the reply, else the error and the minimum seconds to wait (None: do not retry)."""
        import openai

        timeout = self._settings.timeout_seconds if left is None else min(left, self._settings.timeout_seconds)
        self._deadline = time.monotonic() + timeout
        client: Any = self._client.with_options(timeout=timeout)
        try:
            headers = {"X-Stainless-Retry-Count": openai.omit, "X-Stainless-Read-Timeout": openai.omit}
            answer = client.chat.completions.create(**payload_of(request), extra_headers=headers)
            return parse_reply(answer, request, self._key), "", None
        except openai.APITimeoutError:
            return None, f"no answer within {timeout:.3g} s", 0.0
        except openai.APIConnectionError as error:
            return None, f"no connection ({error.__cause__ or error})"[:200], 0.0
        except openai.APIStatusError as error:
            wait = _retry_after(error) if error.status_code in _RETRIED else None
            return None, f"status {error.status_code}", wait
        except AnswerTooLongError as error:
            return None, str(error), 0.0
        except (openai.APIError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            return None, f"the answer is not a chat completion ({type(error).__name__})", 0.0


def _retry_after(error: Any) -> float:
    """Seconds of `Retry-After`, a number or a date; 0 if there is none."""
    asked = str(error.response.headers.get("retry-after", "0"))
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
