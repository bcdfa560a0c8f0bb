"""Inference settings that can change a number: parsed from `--set key=value`, hashed as `settings_id`."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Self

from medsam3_core.digests import short_digest
from medsam3_core.errors import UsageError
from medsam3_core.settings.agent import AgentSettings
from medsam3_core.settings.described import setting

_AGENT = "agent"
_DEFAULT_AGENT = AgentSettings()


class PromptMode(StrEnum):
    """Meaning of boxes for the model: exemplars of a concept, or the region to segment (SAM-style head)."""

    CONCEPT = "concept"
    INTERACTIVE = "interactive"


class Merge(StrEnum):
    """Rules that turn the instances of an answer into the mask that is scored."""

    AUTO = "auto"
    UNION = "union"
    BEST = "best"
    SEMANTIC = "semantic"
    COMPONENTS = "components"
    TOP = "top"

    @property
    def uses_semantic_mask(self) -> bool:
        """True if the structure is taken from the semantic mask, not from instances."""
        return self in (Merge.SEMANTIC, Merge.COMPONENTS)


class Dtype(StrEnum):
    """Precision of the network: `mixed` runs the encoders in bf16 and the heads in fp32."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """One value per setting, described at its field; the defaults are the product's protocol.

    Attributes:
        agent: Model, turns and caps of the policy `agent`; each is a key of its own.
    """

    mode: PromptMode = setting(
        PromptMode.CONCEPT, "`interactive` answers boxes, points and masks as objects on the interactive (SAM) head"
    )
    merge: Merge = setting(
        Merge.AUTO,
        "instances that become the mask: `union` all, `best` the one that fits the box best, `top` the one with "
        "the highest score for any prompt; `semantic` takes the semantic mask as one instance and `components` "
        "each connected part of it, scored by presence. `auto` is `union`, for one exemplar box `best`",
    )
    threshold: float = setting(
        0.5,
        "instances need a score above it (objects of the interactive head are always kept); the semantic mask of "
        "a slice or tile needs a presence above it, which is the probability that the concept is there at all",
    )
    tiles: int = setting(1, "N x N overlapping tiles per slice, for vessels and pathology; 1 is the whole slice")
    resolution: int = setting(0, "input side in pixels; 0 is that of the weights")
    dtype: Dtype = setting(
        Dtype.AUTO,
        "`fp32`, `bf16` or `mixed` (encoders in bf16, heads in fp32, but for the matrix products of the "
        "fusion encoder); `auto` is `mixed` where bf16 is fast, else `fp32`",
    )
    window: str = setting(
        "recipe",
        "intensity policy: `recipe` (of the cohort), `ct:CENTRE,WIDTH`, `percentile:LOW,HIGH`, `minmax`, "
        "`identity` or `auto`",
    )
    agent: AgentSettings = _DEFAULT_AGENT

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold < 1.0:
            msg = f"threshold={self.threshold} is outside [0, 1)"
            raise UsageError(msg)
        if not 1 <= self.tiles <= 16:
            msg = f"tiles={self.tiles} is outside 1..16"
            raise UsageError(msg)
        if self.resolution < 0:
            msg = f"resolution={self.resolution} is negative; 0 means the weights' own"
            raise UsageError(msg)

    @classmethod
    def parse(cls, assignments: Iterable[str]) -> Self:
        """Read `key=value` strings; every key at most once.

        Raises:
            UsageError: If a key is unknown or doubled or a value is outside its range; lists what exists.
        """
        own = {one.name: one for one in fields(cls) if one.name != _AGENT}
        of_agent = {one.name: one for one in fields(AgentSettings)}
        known = own | of_agent
        values: dict[str, Any] = {}
        for assignment in assignments:
            key, separator, text = assignment.partition("=")
            if not separator or key not in known:
                msg = f"unknown setting {assignment!r}; write key=value with one of: {', '.join(known)}"
                raise UsageError(msg)
            if key in values:
                msg = f"setting {key!r} is given twice"
                raise UsageError(msg)
            values[key] = _convert(key, text, type(known[key].default))
        agent = AgentSettings(**{key: value for key, value in values.items() if key in of_agent})
        return replace(cls(), agent=agent, **{key: value for key, value in values.items() if key in own})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `dataclasses.asdict` through JSON; a key that an older run lacks keeps its default."""
        known, default = {one.name for one in fields(cls)} - {_AGENT}, cls()
        plain = {name: type(getattr(default, name))(values[name]) for name in known & values.keys()}
        return cls(agent=AgentSettings(**values.get(_AGENT, {})), **plain)

    @property
    def settings_id(self) -> str:
        """12 hex digits that name these settings; agent settings count only if they differ from their defaults."""
        values = asdict(self)
        if self.agent == _DEFAULT_AGENT:
            del values[_AGENT]
        return short_digest(values)

    def canonical(self) -> str:
        """Settings that differ from the defaults, as `key=value` pairs in key order; `default` if none do."""
        defaults, values = _flat(type(self)()), _flat(self)
        changed = {key: value for key, value in values.items() if value != defaults[key]}
        return ",".join(f"{key}={changed[key]}" for key in sorted(changed)) or "default"


def _flat(settings: InferenceSettings) -> dict[str, Any]:
    values = asdict(settings)
    of_agent: dict[str, Any] = values.pop(_AGENT)
    return values | of_agent


def _convert(key: str, text: str, kind: type[Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        choices = f"one of {', '.join(kind)}" if issubclass(kind, StrEnum) else f"a {kind.__name__}"
        msg = f"setting {key}={text!r} is not {choices}"
        raise UsageError(msg) from None
