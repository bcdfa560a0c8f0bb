"""The identity of weights: the SHA-256 of their bytes."""

import hashlib
from pathlib import Path

from medsam3_core.errors import WeightsError


def weights_sha256(path: Path, base: Path | None = None) -> str:
    """Identity of a checkpoint file or folder.

    A folder is hashed over its sorted (relative path, sha256) lines. An adapter counts together with its base: the
    same adapter on another base is other weights.

    Raises:
        WeightsError: If there is nothing at the path.
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
