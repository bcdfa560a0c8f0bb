"""The licence note of weights: what stands beside them in their folder."""

import re
from pathlib import Path

_FILES = ("LICENSE", "LICENCE", "LICENSE.txt", "LICENCE.txt", "LICENSE.md", "LICENCE.md")
_CARD = "README.md"
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)
_FIELD = re.compile(r"^(license_name|license):[ \t]*[\"']?([^\"'\n]+?)[\"']?[ \t]*$", re.MULTILINE)
_LONGEST = 80


def licence_beside(path: Path) -> str:
    """What a model card beside weights, else a licence file, says; empty where there is neither.

    Args:
        path: Checkpoint file or folder.
    """
    folder = path if path.is_dir() else path.parent
    said: dict[str, str] = dict(_FIELD.findall(_front_matter(_text(folder / _CARD))))
    if found := said.get("license_name") or said.get("license"):
        return found[:_LONGEST]
    texts = (_text(folder / name) for name in _FILES)
    return next((line.strip("# \t")[:_LONGEST] for text in texts for line in text.splitlines() if line.strip()), "")


def _front_matter(card: str) -> str:
    """The YAML head of a model card."""
    match = _FRONT.match(card)
    return match[1] if match else ""


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
