"""Label tables beside the data (`dataset.json`, `labels.json`), which name the values of label maps."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsam3_core.cases.structures import Structure
from medsam3_core.errors import UsageError


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Content of a label table.

    Attributes:
        structures: In ascending order of their first value; names slugged, texts from the names as written.
        label_values: Structure to its values.
        ignored_values: Values named `ignore`.
    """

    structures: tuple[Structure, ...] = ()
    label_values: dict[str, list[int]] = field(default_factory=dict)
    ignored_values: list[int] = field(default_factory=list)

    def parameters(self) -> dict[str, object]:
        """Parameters of a recipe that this table fills."""
        return {"label_values": self.label_values, "ignored_values": self.ignored_values}


def read_index(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UsageError: If the file is missing, broken or holds something else; names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read as JSON: {error}; repair or replace it"
        raise UsageError(msg) from None
    if not isinstance(content, dict):
        msg = f"{path} holds a JSON {type(content).__name__}; an object is expected"
        raise UsageError(msg)
    return content


def read_label_table(path: Path) -> LabelTable:
    """Read `labels.json`: `{"labels": {...}, "texts": {structure: text}}`, or the table of labels alone.

    Raises:
        UsageError: See `read_index` and `parse_labels`.
    """
    content = read_index(path)
    if "labels" not in content:
        return parse_labels(content, {}, path)
    texts = content.get("texts", {})
    if not isinstance(texts, dict):
        msg = f"{path}: texts must map structures to their text, got {texts!r}"
        raise UsageError(msg)
    return parse_labels(content["labels"], texts, path)


def parse_labels(labels: object, texts: dict[str, str], path: Path) -> LabelTable:
    """Parse both syntaxes in use: `{"1": "liver"}` and `{"liver": 1, "tumour core": [2, 3], "ignore": 4}`.

    Value 0 is background regardless of its name.

    Raises:
        UsageError: If an entry has neither form, a value is negative, or two names become one; names the file.
    """
    if not isinstance(labels, dict):
        msg = f"{path}: labels must map values to names or names to values, got {labels!r}"
        raise UsageError(msg)
    values_by_name: dict[str, list[int]] = {}
    for left, right in labels.items():
        name, values = _name_and_values(left, right, path)
        values_by_name.setdefault(name, []).extend(value for value in values if value != 0)
    ignored = sorted(value for name, values in values_by_name.items() if name.lower() == "ignore" for value in values)
    named = [(name, values) for name, values in values_by_name.items() if values and name.lower() != "ignore"]
    named.sort(key=lambda item: min(item[1]))
    slugs = [structure_slug(name) for name, _ in named]
    if doubled := sorted({slug for slug in slugs if slugs.count(slug) > 1}):
        msg = f"{path}: several labels map to the structure {doubled[0]!r}; rename one of them"
        raise UsageError(msg)
    structures = tuple(
        Structure(slug, texts.get(slug, name.replace("_", " ").lower()))
        for slug, (name, _) in zip(slugs, named, strict=True)
    )
    return LabelTable(structures, {slug: sorted(item[1]) for slug, item in zip(slugs, named, strict=True)}, ignored)


def structure_slug(name: str) -> str:
    """Name of a structure for the name of a label; unchanged if it is already valid."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", name.strip()).strip("_.+-") or "structure"


def _name_and_values(left: object, right: object, path: Path) -> tuple[str, list[int]]:
    if isinstance(right, str) and (value := _as_value(left)) is not None:
        return right, [value]
    items = right if isinstance(right, list) else [right]
    values = [value for value in map(_as_value, items) if value is not None]
    if len(values) != len(items) or not isinstance(left, str) or not left.strip():
        msg = f'{path}: label {left!r}: {right!r} is neither "1": "liver" nor "liver": 1; values are whole numbers >= 0'
        raise UsageError(msg)
    return left, values


def _as_value(item: object) -> int | None:
    if isinstance(item, str) and item.strip().isdecimal():
        return int(item)
    return item if isinstance(item, int) and not isinstance(item, bool) and item >= 0 else None
