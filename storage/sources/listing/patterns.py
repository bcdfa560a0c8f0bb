"""Regular expressions in recipes, checked when the recipe is loaded."""

import re
from typing import Annotated

from pydantic import AfterValidator


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        msg = f"{pattern!r} is no regular expression: {error}"
        raise ValueError(msg) from None
    return pattern


def _has_key(pattern: str) -> str:
    if "key" not in re.compile(_compiles(pattern)).groupindex:
        msg = f"{pattern!r} needs a group (?P<key>...): what an image and its reference have in common"
        raise ValueError(msg)
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
"""Regular expression."""

PathPattern = Annotated[str, AfterValidator(_has_key)]
"""Regular expression that must match a whole path relative to the source (`/` between folders, case ignored)."""
