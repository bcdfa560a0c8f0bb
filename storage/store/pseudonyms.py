"""Patients without names: a keyed hash of the patient id, with a key that never lies in a store.

The same patient has the same pseudonym in every cohort that is ingested with the same key. Without the key, pseudonyms
cannot be found by trying names or numbers. If the key is lost, new ingests give new pseudonyms, unlinked to the old.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medsam3_core.errors import UsageError

VARIABLE = "MEDSAM3_KEY_FILE"
_KEY_BYTES = 32
_MIN_KEY_BYTES = 16
_MIN_WORD = 3
_WORD = re.compile(r"[^\W_]+")


def key_file() -> Path:
    """Path of the key: the file that `MEDSAM3_KEY_FILE` names, else one in the user's configuration folder."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "medsam3" / "patients.key"


def load_key(*, outside: Path | None = None) -> bytes:
    """Read the key; it is created on first use, readable by its owner alone.

    Args:
        outside: A folder, such as the store, that the key must not lie in.

    Raises:
        UsageError: If it cannot be read or created, is too short, or lies in `outside`; names the file.
    """
    path = key_file()
    if outside is not None:
        require_key_outside(outside)
    try:
        if not path.exists():
            _make(path)
        key = path.read_bytes()
    except OSError as error:
        msg = f"the patients' key {path} cannot be read or created ({error.strerror}); set {VARIABLE} to another file"
        raise UsageError(msg) from error
    if len(key) < _MIN_KEY_BYTES:
        msg = f"the patients' key {path} has {len(key)} bytes; at least {_MIN_KEY_BYTES} random bytes are needed"
        raise UsageError(msg)
    return key


def require_key_outside(folder: Path) -> None:
    """Refuse a store that contains the key, or would: access to the store must not give the key.

    Raises:
        UsageError: If the key lies in `folder`; names both.
    """
    path = key_file()
    if path.resolve().is_relative_to(folder.resolve()):
        msg = f"the patients' key {path} lies inside {folder}; move it out and name it in {VARIABLE}"
        raise UsageError(msg)


def _make(path: Path) -> None:
    """Write a scratch file and link it into place, so that two processes at once get the same key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(secrets.token_bytes(_KEY_BYTES))
    try:
        os.link(scratch, path)
    except FileExistsError:
        return
    finally:
        scratch.unlink()


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Pseudonyms of patients, and paths without their names, under one key."""

    key: bytes

    def patient(self, *identity: str) -> str:
        """`p-` and 16 hex digits for a patient id and its issuer; empty where all parts are empty."""
        return f"p-{self._digest(*identity)[:16]}" if any(identity) else ""

    def hide(self, component: str, words: Iterable[str]) -> str:
        """A file or folder name: unchanged, or a hash where it holds one of the words as a word of its own."""
        own = {word.casefold() for word in _WORD.findall(component)}
        return f"x-{self._digest(component)[:10]}" if own & set(words) else component

    def _digest(self, *parts: str) -> str:
        return hmac.new(self.key, "\0".join(parts).encode(), hashlib.sha256).hexdigest()


def identity_words(name: str, *others: str) -> frozenset[str]:
    """Words of a patient's name, id and birth date that must not appear in a path, in lower case.

    The parts of the name, pairs of them joined, and the others whole; nothing shorter than three characters.
    """
    parts = [part.casefold() for part in _WORD.findall(name)]
    paired = [first + second for first in parts for second in parts if first != second]
    whole = [word.casefold() for other in others for word in (other, *_WORD.findall(other))]
    return frozenset(word for word in (*parts, *paired, *whole) if len(word) >= _MIN_WORD)
