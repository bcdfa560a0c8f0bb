"""Digests for identity: canonical JSON and SHA-256, the same on every machine and in every Python."""

import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray


def canonical_json(value: Any) -> str:
    """Serialise to the one JSON text that this value has: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: If the value holds NaN or infinity.
        TypeError: If the value holds a type that JSON lacks.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_json(value: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def short_digest(value: Any) -> str:
    """First 12 hex digits of `digest_json`: the length of run, prompt and settings ids."""
    return digest_json(value)[:12]


def digest_array(array: NDArray[Any]) -> str:
    """SHA-256 over dtype, shape and the bytes in C order: equal arrays have equal digests in any memory layout."""
    contiguous = np.ascontiguousarray(array)
    hasher = hashlib.sha256(f"{contiguous.dtype.str}{contiguous.shape}".encode())
    hasher.update(contiguous.view(np.uint8).reshape(-1).data if contiguous.size else b"")
    return hasher.hexdigest()


def seed_from(*parts: object) -> int:
    """64-bit seed that depends on the parts alone, never on order of execution or process."""
    return int.from_bytes(hashlib.sha256(canonical_json([str(part) for part in parts]).encode()).digest()[:8], "big")
