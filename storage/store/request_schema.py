"""How requests are read from JSON, where a form or a script starts a flow: strictly, with their docstrings as help."""

import re
from typing import Any

from pydantic import ConfigDict

_ATTRIBUTE = re.compile(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", re.MULTILINE)


def _explain(schema: dict[str, Any], request: type[Any]) -> None:
    """Put what the docstring says of each attribute into the JSON schema, so that the form of a deployment shows it."""
    summary, _, attributes = (request.__doc__ or "").partition("Attributes:")
    schema["description"] = " ".join(summary.split())
    for name, text in _ATTRIBUTE.findall(attributes):
        schema["properties"][name]["description"] = " ".join(text.split())


STRICT = ConfigDict(extra="forbid", json_schema_extra=_explain)
"""For `__pydantic_config__` of a frozen dataclass: a field that does not exist is refused by its name."""
