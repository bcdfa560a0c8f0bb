"""Texts that array files store for their label values, and the structures that all files name."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam3_core.cases.structures import Structure
from medsam3_core.errors import CaseDataError, LabelValueError, UsageError
from storage.sources.formats.arrays import read_texts
from storage.sources.listing.files import visible_files
from storage.sources.listing.labels import structure_slug
from storage.sources.listing.parameters import ArrayParameters

INSTANCE_LABEL = "instance_label"
_MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class CaseTexts:
    """Texts of the label values of one file.

    Attributes:
        texts: Label value to its text.
        are_instances: True if all values are instances of the structure of the first text.
    """

    texts: Mapping[int, str]
    are_instances: bool

    def structures(self, texts_of: Mapping[str, Iterable[str]]) -> dict[int, str]:
        """Label value to structure.

        Args:
            texts_of: Structure to the texts that mean it.

        Raises:
            LabelValueError: If a text means no structure of the recipe.
        """
        structure_of = {_plain(text): name for name, texts in texts_of.items() for text in texts}
        unknown = [text for text in self.texts.values() if _plain(text) not in structure_of]
        if unknown:
            msg = f"the text {unknown[0]!r} names no structure of the recipe; add it to texts"
            raise LabelValueError(msg)
        return {value: structure_of[_plain(text)] for value, text in self.texts.items()}


def read_case_texts(path: Path, key: str) -> CaseTexts | None:
    """Texts of one file; None if it has none.

    Raises:
        CaseDataError: If they do not have the form `{"1": text, ..., "instance_label": 0}`; names the file.
    """
    content = read_texts(path, key)
    if content is None:
        return None
    texts: dict[int, str] = {}
    for name, value in content.items():
        if name == INSTANCE_LABEL:
            continue
        text = value[0] if isinstance(value, list) and value else value
        if not name.isdecimal() or not isinstance(text, str) or not text.strip():
            msg = f"{path}: {key} holds {name!r}: {value!r}; label values with their text are expected"
            raise CaseDataError(msg)
        texts[int(name)] = text.strip()
    return CaseTexts(texts, bool(content.get(INSTANCE_LABEL, 0)))


def find_structures(source: Path, files: Iterable[str], parameters: ArrayParameters) -> tuple[Structure, ...]:
    """Structures that the texts of all files name, in order of name.

    Texts that a `*class*.json` beside the data (`{dataset: {value: [texts]}}`) lists together mean one structure, named
    by the first of them; any other text is a separate structure. Skips unreadable files, which `read_case` reports.

    Raises:
        UsageError: If no file has a text.
    """
    first_text = _texts_of_classes(source)
    found: dict[str, tuple[list[str], bool]] = {}
    for name in files:
        try:
            texts = read_case_texts(source / name, parameters.texts_key or "")
        except CaseDataError:
            continue
        for text in texts.texts.values() if texts else ():
            structure = _name_of(first_text.get(_plain(text), text))
            known, instances = found.get(structure, ([], False))
            listed = known if _plain(text) in {_plain(item) for item in known} else [*known, text]
            found[structure] = (listed, instances or bool(texts and texts.are_instances))
    if not found:
        msg = f"no file in {source} has {parameters.texts_key!r}; name structures and label_values in a recipe"
        raise UsageError(msg)
    return tuple(
        Structure(name, texts[0], tuple(texts[1:]), instances=instances)
        for name, (texts, instances) in sorted(found.items())
    )


def _texts_of_classes(source: Path) -> dict[str, str]:
    """Plain text to the first text of its class, from `*class*.json` files."""
    first: dict[str, str] = {}
    for name in visible_files(source, (".json",)):
        if "class" not in name.rpartition("/")[2].lower():
            continue
        try:
            content: Any = json.loads((source / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"{source / name} cannot be read as JSON: {error}; repair or remove it"
            raise UsageError(msg) from None
        for classes in content.values() if isinstance(content, dict) else ():
            for texts in classes.values() if isinstance(classes, dict) else ():
                if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
                    first |= {_plain(text): texts[0] for text in texts}
    return first


def _name_of(text: str) -> str:
    return structure_slug(text.lower())[:_MAX_NAME].strip("_.+-") or "structure"


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
