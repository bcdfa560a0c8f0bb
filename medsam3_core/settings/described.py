"""Settings described at their fields, from which help texts and documentation are made."""

from dataclasses import Field, field, fields
from typing import Any, TypeVar

Value = TypeVar("Value")


def setting(default: Value, words: str) -> Value:
    """Field of a dataclass with a default and a description in Markdown."""
    return field(default=default, metadata={"words": words})


def described_fields(settings: type[Any]) -> dict[str, Field[Any]]:
    """Described fields of a settings class, by name."""
    return {one.name: one for one in fields(settings) if "words" in one.metadata}


def option_help(settings: type[Any], name: str) -> str:
    """Description and default of one setting, for the command line."""
    one = described_fields(settings)[name]
    words = one.metadata["words"].replace("`", "")
    return f"{words[0].upper()}{words[1:]}.  [default: {one.default}]"
