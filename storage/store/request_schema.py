"""Validation of requests from JSON (forms, scripts): strict, with the docstrings as descriptions."""

import re
from typing import Any

from pydantic import ConfigDict

_ATTRIBUTE = re.compile(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", re.MULTILINE)


def _explain(schema: dict[str, Any], request: type[Any]) -> None:
    """Copy the docstring of each attribute into the JSON schema, which the form of a deployment shows."""
    summary, _, attributes = (request.__doc__ or "").partition("Attributes:")
    schema["description"] = " ".join(summary.split())
    for name, text in _ATTRIBUTE.findall(attributes):
        schema["properties"][name]["description"] = " ".join(text.split())


STRICT = ConfigDict(extra="forbid", json_schema_extra=_explain)
"""For `__pydantic_config__` of a frozen dataclass: refuse unknown fields by name."""
