"""Perceptual hashes: images that look alike get hashes that differ in few bits.

The hash of an image is the sign of the 256 lowest frequencies of a 32 x 32 thumbnail against their median, lowest
frequencies first; that of a volume the 64 lowest of four of its slices. Compression, resizing, brightness and contrast
change few of the lowest 64 bits and some of the others; another image changes about half of all.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Likeness:
    """Limits on the differing bits of two images that look alike.

    Attributes:
        max_bits: Of all 256; at most 31.
        max_low_bits: Alternative limit on the first 64 bits, for smooth images.
        max_bits_of_low: Limit on all bits under that alternative.
    """

    max_bits: int
    max_low_bits: int = 0
    max_bits_of_low: int = 0


PICTURES = Likeness(24, 5, 48)
"""For single slices: compressed, halved or brightened copies stay within; different images are 42 bits apart."""

VOLUMES = Likeness(6)
"""For volumes: the same anatomy looks alike to any hash, so only rescaled copies count."""

_SIDE, _LOW = 32, 16
_MAX_SIDE = 160
_MIN_SPREAD = 1e-6
_BLOCK = 2048
_MAX_COMPARISONS = 2_000_000_000

_FREQUENCIES = np.arange(_LOW)[:, None]
_COSINES = np.cos(np.pi * (2 * np.arange(_SIDE)[None] + 1) * _FREQUENCIES / (2 * _SIDE)).astype(np.float32)
_ORDER = np.argsort((np.indices((_LOW, _LOW)) ** 2).sum(axis=0).ravel(), kind="stable")


def perceptual_hash(voxels: NDArray[Any]) -> bytes | None:
    """Hash of an image by its grey values.

    Args:
        voxels: Shape (z, y, x) or (c, z, y, x).

    Returns:
        32 bytes; None for uniform images, which all look alike.
    """
    depth = voxels.shape[-3]
    if depth == 1:
        return _signs(voxels[..., 0, :, :], HASH_BYTES)
    parts = [_signs(voxels[..., depth * part // 8, :, :], HASH_BYTES // 4) for part in (1, 3, 5, 7)]
    return None if all(part is None for part in parts) else b"".join(part or bytes(HASH_BYTES // 4) for part in parts)


def similar_groups(hashes: NDArray[np.uint8], likeness: Likeness = PICTURES) -> list[list[int]]:
    """Groups of hashes that are linked by pairs that look alike.

    Hashes of such a pair share at least one of their 32 bytes (at most 31 different bits, or at most 5 in 8 bytes), so
    candidates are searched byte by byte, the most selective bytes first. If so many images are alike that this would
    take minutes, the least selective bytes are left out; equal hashes are always found.

    Args:
        hashes: Shape (n, 32).
        likeness: Limits for a pair.

    Returns:
        Groups of at least two row numbers, sorted.
    """
    if len(hashes) < 2:
        return []
    distinct, inverse = np.unique(np.ascontiguousarray(hashes), axis=0, return_inverse=True)
    words = np.ascontiguousarray(distinct).view(np.uint64)
    parent = list(range(len(distinct)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    budget = _MAX_COMPARISONS
    for buckets in sorted(map(_buckets, distinct.T), key=_comparisons):
        budget -= _comparisons(buckets)
        if budget < 0:
            break
        for members in buckets:
            for first, second in _close_pairs(words, members, likeness):
                parent[root(second)] = root(first)
    groups: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(inverse.ravel().tolist()):
        groups[root(row)].append(index)
    return sorted(group for group in groups.values() if len(group) > 1)


def _signs(plane: NDArray[Any], count: int) -> bytes | None:
    """`count` bytes of a plane (y, x) or (c, y, x): the signs of its lowest frequencies."""
    step_y, step_x = (max(1, size // _MAX_SIDE) for size in plane.shape[-2:])
    grey = plane[..., ::step_y, ::step_x].astype(np.float32)
    thumbnail = _thumbnail(grey.mean(axis=0) if grey.ndim == 3 else grey)
    spread = float(np.ptp(thumbnail))
    if not spread > _MIN_SPREAD * max(1.0, float(np.abs(thumbnail).max())):
        return None
    spectrum = (_COSINES @ ((thumbnail - thumbnail.mean()) / spread) @ _COSINES.T).ravel()[_ORDER[: 8 * count]]
    return np.packbits(spectrum > np.median(spectrum[1:])).tobytes()


def _buckets(values: NDArray[np.uint8]) -> list[NDArray[np.intp]]:
    order = np.argsort(values, kind="stable")
    edges = np.flatnonzero(np.diff(values[order])) + 1
    return [members for members in np.split(order, edges) if len(members) > 1]


def _comparisons(buckets: list[NDArray[np.intp]]) -> int:
    return sum(len(members) ** 2 // 2 for members in buckets)


def _close_pairs(words: NDArray[np.uint64], members: NDArray[np.intp], likeness: Likeness) -> list[tuple[int, int]]:
    """Pairs of a bucket, block by block so that no matrix of all pairs is made."""
    pairs: list[tuple[int, int]] = []
    own = words[members]
    for start in range(0, len(members), _BLOCK):
        block = own[start : start + _BLOCK]
        for other in range(start, len(members), _BLOCK):
            low = np.bitwise_count(block[:, 0, None] ^ own[None, other : other + _BLOCK, 0])
            differing = low.astype(np.uint16)
            for column in range(1, own.shape[1]):
                differing += np.bitwise_count(block[:, column, None] ^ own[None, other : other + _BLOCK, column])
            alike = differing <= likeness.max_bits
            alike |= (low <= likeness.max_low_bits) & (differing <= likeness.max_bits_of_low)
            rows, columns = np.nonzero(alike)
            later = start + rows < other + columns
            pairs += zip(members[start + rows[later]].tolist(), members[other + columns[later]].tolist(), strict=True)
    return pairs


def _thumbnail(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 32 x 32 fields of nearly equal size; images with a shorter side repeat pixels."""
    for axis in (0, 1):
        size = grey.shape[axis]
        if size < _SIDE:
            grey = np.take(grey, np.arange(_SIDE) * size // _SIDE, axis=axis)
        else:
            edges = np.arange(_SIDE) * size // _SIDE
            counts = np.diff(np.append(edges, size)).astype(np.float32)
            sums = np.add.reduceat(grey, edges, axis=axis)
            grey = (sums / (counts[:, None] if axis == 0 else counts[None])).astype(np.float32, copy=False)
    return grey
