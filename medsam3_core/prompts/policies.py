"""Prompt policies: the rule by which prompts are made, written `kind[:key=value,...]`.

The canonical string of a policy names every key that its kind knows, in alphabetical order, with defaults filled in:
`box` is `box:jitter=0,per=auto,slices=all`. The column `prompt` holds it. `per=auto` means: one prompt per instance if
the recipe says that a structure comes in instances, else one per structure.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self

from medsam3_core.capabilities import Capabilities
from medsam3_core.cases.structures import Structure
from medsam3_core.digests import short_digest
from medsam3_core.errors import UsageError
from medsam3_core.settings.agent import SYNONYMS, VOCABULARY_VERSION

PROMPT_CODE_VERSION = 1
"""Raised when the code would make different prompts for the same policy, case and structure."""


class PromptKind(StrEnum):
    """Kinds of policies, by the prompts that they give the model."""

    TEXT = "text"
    BOX = "box"
    POINTS = "points"
    MASK = "mask"
    TEXT_AND_BOX = "text+box"
    AGENT = "agent"
    FILE = "file"


class Per(StrEnum):
    """Object of one box, point set or mask; `auto` follows the recipe, structure by structure."""

    AUTO = "auto"
    STRUCTURE = "structure"
    INSTANCE = "instance"


class PromptedSlices(StrEnum):
    """Slices that are prompted.

    `all`: for text every slice, else every slice that holds the structure. `key`: the slice where the structure has
    its largest area. `reference`: text only, the slices that hold the structure.
    """

    ALL = "all"
    KEY = "key"
    REFERENCE = "reference"


_OF_KIND: Mapping[PromptKind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    PromptKind.TEXT: (("slices",), ("text",)),
    PromptKind.BOX: (("jitter", "per", "slices"), ("box",)),
    PromptKind.POINTS: (("neg", "per", "pos", "slices"), ("interactive",)),
    PromptKind.MASK: (("per", "slices"), ("interactive",)),
    PromptKind.TEXT_AND_BOX: (("jitter", "per", "slices"), ("text", "box")),
    PromptKind.AGENT: (("synonyms",), ("text",)),
    PromptKind.FILE: (("digest", "kinds"), ()),
}
"""Keys of each kind, and the capabilities that it needs."""
_NEEDS_OF_ROWS = {"text": "text", "box": "box", "points": "interactive", "mask": "interactive"}
_VALUES: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "digest": (str, "the digest of a prompts file"),
    "jitter": (float, "a number of at least 0"),
    "kinds": (str, "kinds of prompt joined by +"),
    "neg": (int, "a whole number of at least 0"),
    "per": (Per, f"one of {', '.join(Per)}"),
    "pos": (int, "a whole number of at least 1"),
    "slices": (PromptedSlices, f"one of {', '.join(PromptedSlices)}"),
    "synonyms": (int, "a whole number from 0 to 16"),
}
"""Converter and description of the values of each key."""


@dataclass(frozen=True, slots=True)
class PromptPolicy:
    """A parsed policy.

    Attributes:
        per: Object of one box, point set or mask.
        jitter: Each edge of a box moves by U(-jitter, jitter) of its side; box kinds only.
        pos: Positive points per prompt, at least 1; points only.
        neg: Negative points per prompt; points only.
        slices: Slices that are prompted.
        synonyms: Synonyms that the rules of the agent try beside a plain name; agent only.
        digest: Digest of the rows of a prompts file; `file` only.
        kinds: Kinds of its rows, joined by `+`.
    """

    kind: PromptKind
    per: Per = Per.AUTO
    jitter: float = 0.0
    pos: int = 1
    neg: int = 0
    slices: PromptedSlices = PromptedSlices.ALL
    synonyms: int = SYNONYMS
    digest: str = ""
    kinds: str = ""

    def __post_init__(self) -> None:
        out_of_range = {"jitter": not 0 <= self.jitter < math.inf, "neg": self.neg < 0, "pos": self.pos < 1}
        out_of_range["synonyms"] = not 0 <= self.synonyms <= 16
        for key, wrong in out_of_range.items():
            if wrong:
                msg = f"{key}={getattr(self, key)} of prompt policy {self.kind} is not {_VALUES[key][1]}"
                raise UsageError(msg)
        if self.slices is PromptedSlices.REFERENCE and self.kind is not PromptKind.TEXT:
            msg = (
                f"slices=reference does not apply to prompt policy {self.kind}, which prompts only slices that hold "
                "the structure; write slices=all or slices=key"
            )
            raise UsageError(msg)
        foreign = [key for key in _VALUES if key not in self.keys and getattr(self, key) != _DEFAULTS[key]]
        if foreign:
            raise UsageError(_inapplicable(foreign[0], self.kind))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `kind[:key=value,...]`.

        Raises:
            UsageError: If kind, key or value is unknown, a key does not apply to the kind or is given twice; lists
                what exists.
        """
        name, colon, assignments = text.partition(":")
        if name not in tuple(PromptKind):
            msg = f"unknown prompt policy {text!r}; the kinds are: {', '.join(PromptKind)}"
            raise UsageError(msg)
        kind = PromptKind(name)
        values: dict[str, Any] = {}
        for assignment in assignments.split(",") if colon else ():
            key, value = _parse_assignment(assignment, kind)
            if key in values:
                msg = f"prompt policy {text!r} gives {key!r} twice; give it once"
                raise UsageError(msg)
            values[key] = value
        return cls(kind, **values)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of this kind, in alphabetical order."""
        return _OF_KIND[self.kind][0]

    def canonical(self) -> str:
        """Canonical string: every key of the kind, sorted, defaults filled in; `parse` reads it back."""
        return f"{self.kind}:" + ",".join(f"{key}={_written(getattr(self, key))}" for key in self.keys)

    def short(self) -> str:
        """Short string for people, without defaults: `box`, `box:jitter=0.1`; `parse` reads it back too."""
        changed = [key for key in self.keys if getattr(self, key) != _DEFAULTS[key]]
        return f"{self.kind}:{','.join(f'{k}={_written(getattr(self, k))}' for k in changed)}" if changed else self.kind

    @property
    def privileged(self) -> bool:
        """True if the prompts are made from the reference; only `agent`, `file` and `text` on all slices are not."""
        if self.kind in (PromptKind.AGENT, PromptKind.FILE):
            return False
        return self.kind is not PromptKind.TEXT or self.slices is not PromptedSlices.ALL

    @property
    def needs(self) -> frozenset[str]:
        """Names of the `Capabilities` that a segmenter needs: `text`, `box`, `interactive`."""
        if self.kind is PromptKind.FILE:
            return frozenset(_NEEDS_OF_ROWS[kind] for kind in self.kinds.split("+") if kind in _NEEDS_OF_ROWS)
        return frozenset(_OF_KIND[self.kind][1])

    def lacking(self, capabilities: Capabilities) -> tuple[str, ...]:
        """Capabilities that this policy needs and the weights lack, sorted."""
        return tuple(sorted(need for need in self.needs if not getattr(capabilities, need)))

    def is_per_instance(self, structure: Structure) -> bool:
        """True if this structure gets one prompt per instance."""
        return structure.instances if self.per is Per.AUTO else self.per is Per.INSTANCE

    def prompt_id(self, texts: Mapping[str, str]) -> str:
        """12 hex digits that name the prompts of this policy in a cohort.

        Args:
            texts: Name to text of every structure of the recipe.
        """
        made = {"policy": self.canonical(), "texts": dict(texts), "version": PROMPT_CODE_VERSION}
        if self.kind is PromptKind.AGENT:
            made["vocabulary"] = VOCABULARY_VERSION
        return short_digest(made)


_DEFAULTS = {one.name: one.default for one in fields(PromptPolicy)}


def short_prompt(canonical: str) -> str:
    """Short string of a canonical policy: `box` for `box:jitter=0,per=auto,slices=all`."""
    return PromptPolicy.parse(canonical).short()


def _parse_assignment(assignment: str, kind: PromptKind) -> tuple[str, Any]:
    key, separator, text = assignment.partition("=")
    keys, _ = _OF_KIND[kind]
    if not separator or key not in _VALUES:
        msg = f"unknown key {assignment!r} in prompt policy {kind}; write key=value with: {', '.join(keys)}"
        raise UsageError(msg)
    if key not in keys:
        raise UsageError(_inapplicable(key, kind))
    convert, expected = _VALUES[key]
    try:
        return key, convert(text)
    except ValueError:
        msg = f"{key}={text!r} of prompt policy {kind} is not {expected}"
        raise UsageError(msg) from None


def _inapplicable(key: str, kind: PromptKind) -> str:
    return f"key {key!r} does not apply to prompt policy {kind}, which takes: {', '.join(_OF_KIND[kind][0])}"


def _written(value: Any) -> str:
    """Shortest text that reads back as the same value; whole floats without a point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
