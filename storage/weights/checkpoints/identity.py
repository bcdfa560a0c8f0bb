"""Identity of weights (the SHA-256 of their bytes) and the licence note beside them."""

import hashlib
import re
from pathlib import Path

from medsam3_core.errors import WeightsError


def weights_sha256(path: Path, base: Path | None = None) -> str:
    """Identity of a checkpoint file or folder.

    A folder is hashed over its sorted (relative path, sha256) lines. An adapter is hashed together with its base: on
    another base it is other weights.

    Raises:
        WeightsError: If the path has no files.
    """
    own = _path_sha256(path)
    return own if base is None else hashlib.sha256(f"{own}\n{_path_sha256(base)}\n".encode()).hexdigest()


def _path_sha256(path: Path) -> str:
    if path.is_file():
        return _file_sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        msg = f"{path}: no weights there; give a checkpoint file or a folder"
        raise WeightsError(msg)
    lines = "".join(f"{file.relative_to(path).as_posix()} {_file_sha256(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_LICENCE_FILES = ("LICENSE", "LICENCE", "LICENSE.txt", "LICENCE.txt", "LICENSE.md", "LICENCE.md")
_MODEL_CARD = "README.md"
_CARD_HEAD = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)
_LICENCE_FIELD = re.compile(r"^(license_name|license):[ \t]*[\"']?([^\"'\n]+?)[\"']?[ \t]*$", re.MULTILINE)
_MAX_LICENCE = 80


def licence_beside(path: Path) -> str:
    """Licence of a checkpoint file or folder, from the model card or licence file beside it; empty without either."""
    folder = path if path.is_dir() else path.parent
    head = _CARD_HEAD.match(_text_of(folder / _MODEL_CARD))
    fields: dict[str, str] = dict(_LICENCE_FIELD.findall(head[1] if head else ""))
    if found := fields.get("license_name") or fields.get("license"):
        return found[:_MAX_LICENCE]
    texts = (_text_of(folder / name) for name in _LICENCE_FILES)
    return next((line.strip("# \t")[:_MAX_LICENCE] for text in texts for line in text.splitlines() if line.strip()), "")


def _text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
