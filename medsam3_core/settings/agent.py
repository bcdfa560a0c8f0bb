"""Inference settings of the policy `agent`: model, limits on turns, tokens, time and cost, sharing of images."""

import math
import re
from dataclasses import dataclass

from medsam3_core.errors import UsageError
from medsam3_core.settings.described import setting

VOCABULARY_VERSION = 1
"""Raised when the rules read a request differently; part of the prompt id of the policy `agent`."""
SYNONYMS = 3
"""Synonyms that the rules try beside the plain name; default of the policy `agent`."""
RULES = "rules"
"""Name of the strategy without a language model."""
PIXELS_OFF, PIXELS_ON = "off", "on"
_MODEL = re.compile(r"[\w./:@+-]{1,120}")
_HOST = re.compile(r"[\w.:\[\]-]{1,253}")


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One value per setting, described at its field; caps of 0 set no limit."""

    agent_model: str = setting(RULES, "name of a model at the configured endpoint, or `rules`")
    agent_turns: int = setting(12, "answers of the model per request")
    agent_tokens: int = setting(100_000, "tokens, in and out, per case")
    agent_seconds: float = setting(600.0, "seconds of the agent per case")
    agent_cost: float = setting(1.0, "money per case, in the unit of the price table")
    agent_run_tokens: int = setting(0, "tokens of the whole run, over all workers")
    agent_run_seconds: float = setting(0.0, "seconds of the agent over all cases of the run")
    agent_run_cost: float = setting(0.0, "money of the whole run")
    share_pixels: str = setting(
        PIXELS_OFF, "`on` sends pictures to an endpoint on this machine, a host name to that host"
    )

    def __post_init__(self) -> None:
        if not _MODEL.fullmatch(self.agent_model):
            msg = f"agent_model={self.agent_model!r} is not a model name; write rules or a model name of the endpoint"
            raise UsageError(msg)
        if not 1 <= self.agent_turns <= 100:
            msg = f"agent_turns={self.agent_turns} is outside 1..100"
            raise UsageError(msg)
        for name in _CAPS:
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                msg = f"{name}={value} must be 0 (no limit) or above"
                raise UsageError(msg)
        if not _HOST.fullmatch(self.share_pixels):
            msg = f"share_pixels={self.share_pixels!r} is not off, on or a host name"
            raise UsageError(msg)

    @property
    def uses_model(self) -> bool:
        """True if a language model is used."""
        return self.agent_model != RULES


_CAPS = ("agent_tokens", "agent_seconds", "agent_cost", "agent_run_tokens", "agent_run_seconds", "agent_run_cost")
