"""Inference settings of the policy `agent`: which model decides, and what it may cost."""

import math
import re
from dataclasses import dataclass

from medsam3_core.errors import UsageError

VOCABULARY_VERSION = 1
"""Raised whenever the rules would understand a request differently; part of the prompt id of the policy `agent`."""
SYNONYMS = 3
"""Second opinions that the rules ask for beside the plain name, unless the policy says otherwise."""
RULES = "rules"
"""Name of the strategy that asks no language model."""
PIXELS_OFF, PIXELS_ON = "off", "on"
_MODEL = re.compile(r"[\w./:@+-]{1,120}")
_HOST = re.compile(r"[\w.:\[\]-]{1,253}")


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One value per setting; caps of 0 do not bound.

    Attributes:
        agent_model: `rules`, or the name of a model at the configured endpoint.
        agent_turns: Answers of the model per request.
        agent_tokens: Tokens, in and out, per case.
        agent_seconds: Seconds of the agent per case.
        agent_cost: Money per case, in the unit of the price table.
        agent_run_tokens: Tokens of the whole run.
        agent_run_seconds: Seconds of the agent over all cases of the run.
        agent_run_cost: Money of the whole run.
        share_pixels: `off`; `on` shows pictures to an endpoint on this machine; the name of a host to that host.
    """

    agent_model: str = RULES
    agent_turns: int = 12
    agent_tokens: int = 100_000
    agent_seconds: float = 600.0
    agent_cost: float = 1.0
    agent_run_tokens: int = 0
    agent_run_seconds: float = 0.0
    agent_run_cost: float = 0.0
    share_pixels: str = PIXELS_OFF

    def __post_init__(self) -> None:
        if not _MODEL.fullmatch(self.agent_model):
            msg = f"agent_model={self.agent_model!r} is no model name; write rules or the name that the endpoint knows"
            raise UsageError(msg)
        if not 1 <= self.agent_turns <= 100:
            msg = f"agent_turns={self.agent_turns} is outside 1..100"
            raise UsageError(msg)
        for name in _CAPS:
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                msg = f"{name}={value} must be 0 (no bound) or above"
                raise UsageError(msg)
        if not _HOST.fullmatch(self.share_pixels):
            msg = f"share_pixels={self.share_pixels!r} is not off, on or the name of a host"
            raise UsageError(msg)

    @property
    def uses_model(self) -> bool:
        """Whether a language model is asked at all."""
        return self.agent_model != RULES


_CAPS = (
    "agent_tokens",
    "agent_seconds",
    "agent_cost",
    "agent_run_tokens",
    "agent_run_seconds",
    "agent_run_cost",
)
