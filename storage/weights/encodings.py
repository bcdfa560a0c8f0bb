"""Encodings of slices on disk, so that a later benchmark with other prompts skips the encoder.

    encodings/<aa>/<key>.npy, encodings/last-benchmark

The key is the SHA-256 over the slice as the segmenter saw it, the sha256 of the weights and all settings that affect an
encoding (precision, device, resolution, tiles, versions). Worker processes share the folder: each file is written aside
and renamed. During a benchmark the cache only grows, until it is full. Between benchmarks it drops encodings that the
last one did not use, the longest unused first.
"""

import contextlib
import importlib.metadata
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.digests import digest_array, digest_json
from medsam3_core.errors import StoreError, UsageError
from medsam3_core.inference.protocol import (
    CacheableSegmenter,
    FollowedObject,
    FollowingSegmenter,
    PreparingSegmenter,
    Segmenter,
    SegmenterAround,
    SliceImage,
)
from medsam3_core.prompts.prompts import VolumePrompt
from medsam3_core.run_specs import INFERENCE_CODE_VERSION
from medsam3_core.settings.inference import InferenceSettings
from storage.store.atomic import replacing, sweep_leftovers

_MARKER = "last-benchmark"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)
_FULL = 0.9
"""Share of the size above which unused encodings are dropped between benchmarks."""
_LOOK_AGAIN = 0.02
"""Share of the size that a process writes before it measures the folder again."""
_HEADER_BYTES = 128
_ABANDONED_SECONDS = 3600.0


def parse_size(text: str) -> int:
    """Bytes of a size such as `20GB`, `500MB` or `1.5T` (powers of 1000).

    Raises:
        UsageError: If it is not a size above 0.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size <= 0:
        msg = f"size {text!r} is not a number with KB, MB, GB or TB, such as 20GB"
        raise UsageError(msg)
    return size


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Folder of the encodings and its maximum size in bytes; picklable."""

    folder: Path
    size: int


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    size: int
    used: float


def prepare_cache(settings: CacheSettings) -> None:
    """Free space before a benchmark, and record its start.

    A nearly full cache drops encodings that the previous benchmark did not use. A cache above its size then drops the
    longest unused ones.

    Raises:
        StoreError: If the folder cannot be written.
    """
    sweep_leftovers(settings.folder, older_than_seconds=_ABANDONED_SECONDS)
    marker = settings.folder / _MARKER
    began = marker.stat().st_mtime if marker.exists() else 0.0
    entries = _entries(settings.folder)
    if sum(entry.size for entry in entries) >= _FULL * settings.size:
        for entry in entries:
            if entry.used < began:
                entry.path.unlink(missing_ok=True)
    trim_cache(settings)
    with replacing(marker) as scratch:
        scratch.touch()


def trim_cache(settings: CacheSettings) -> None:
    """Drop the longest unused encodings of a cache that is larger than its size."""
    entries = _entries(settings.folder)
    total = sum(entry.size for entry in entries)
    for entry in sorted(entries, key=lambda entry: entry.used):
        if total <= settings.size:
            return
        entry.path.unlink(missing_ok=True)
        total -= entry.size


class EncodingCache:
    """Arrays by key; one object per worker process."""

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._known = self._on_disk()
        self._unseen = 0

    def get(self, key: str) -> NDArray[np.generic] | None:
        """The array of a key, marked as used now; None if missing. A damaged file is removed."""
        path = self._path(key)
        try:
            array: NDArray[np.generic] = np.load(path, allow_pickle=False)
        except OSError:  # missing, or not readable at the moment
            return None
        except (ValueError, EOFError):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # a read-only cache of another user
            os.utime(path)
        return array

    def put(self, key: str, array: NDArray[np.generic]) -> bool:
        """Write an array unless the cache or the disk is full; True if it was written."""
        if not self._fits(array.nbytes + _HEADER_BYTES):
            return False
        path = self._path(key)
        try:
            with replacing(path) as scratch, scratch.open("wb") as file:
                np.save(file, array)
                written = file.tell()
        except (StoreError, OSError):  # a cache that cannot be written must not cost a case
            return False
        self._unseen += written
        return True

    def _fits(self, size: int) -> bool:
        limit = self._settings.size
        if self._known + self._unseen + size > limit and not self._unseen:
            return False
        if self._unseen > _LOOK_AGAIN * limit or self._known + self._unseen + size > limit:
            self._known, self._unseen = self._on_disk(), 0
        return self._known + size <= limit

    def _on_disk(self) -> int:
        return sum(entry.size for entry in _entries(self._settings.folder))

    def _path(self, key: str) -> Path:
        return self._settings.folder / key[:2] / f"{key}.npy"


def cached(segmenter: Segmenter, weights_sha256: str, settings: CacheSettings | None) -> Segmenter:
    """The segmenter with a cache in front of its encoder, if there is a cache and its encodings can be stored."""
    if settings is None or not isinstance(segmenter, CacheableSegmenter):
        return segmenter
    return CachedSegmenter(segmenter, weights_sha256, EncodingCache(settings))


@dataclass(frozen=True, eq=False)
class _Slice:
    """A slice with its encoding from the cache, or ready to be encoded."""

    key: str
    encoding: Any
    ready: Any


class CachedSegmenter(SegmenterAround):
    """A segmenter that takes encodings from a cache, and encodes slices that are missing there."""

    def __init__(self, segmenter: CacheableSegmenter, weights_sha256: str, cache: EncodingCache) -> None:
        super().__init__(segmenter)
        self._segmenter: CacheableSegmenter = segmenter
        self._weights, self._cache = weights_sha256, cache
        self._device = segmenter.device
        self._versions = [importlib.metadata.version(name) for name in ("torch", "transformers")]

    def prepare(self, images: Sequence[SliceImage], settings: InferenceSettings) -> list["_Slice"]:
        """Read encodings from the cache, and prepare all slices that are missing there."""
        return [self._prepared(image, settings) for image in images]

    def encode(self, images: Sequence[Any], settings: InferenceSettings) -> list[Any]:
        """Encodings from the cache; missing ones are made in one call."""
        slices = [one if isinstance(one, _Slice) else self._prepared(one, settings) for one in images]
        found = [one.encoding for one in slices]
        missing = [index for index, encoding in enumerate(found) if encoding is None]
        made = self._segmenter.encode([slices[index].ready for index in missing], settings) if missing else []
        moved = self._segmenter.device != self._device  # after a fallback to the CPU the key does not hold
        for index, encoding in zip(missing, made, strict=True):
            found[index] = encoding
            if not moved:
                self._cache.put(slices[index].key, self._segmenter.pack(encoding))
        return found

    def follow(
        self,
        encoding_of: Callable[[int], Any],
        count: int,
        prompts: Sequence[VolumePrompt],
        settings: InferenceSettings,
    ) -> Iterator[FollowedObject]:
        """Follow objects through a volume, if `capabilities.propagation` is true."""
        assert isinstance(self._segmenter, FollowingSegmenter)
        return self._segmenter.follow(encoding_of, count, prompts, settings)

    def _prepared(self, image: SliceImage, settings: InferenceSettings) -> "_Slice":
        identity = self._segmenter.encoding_identity(settings)
        key = digest_json([self._weights, digest_array(image), identity, INFERENCE_CODE_VERSION, self._versions])
        encoding = self._read(key, image, settings)
        if encoding is not None:
            return _Slice(key, encoding, None)
        if isinstance(self._segmenter, PreparingSegmenter):
            return _Slice(key, None, self._segmenter.prepare([image], settings)[0])
        return _Slice(key, None, image)

    def _read(self, key: str, image: SliceImage, settings: InferenceSettings) -> Any:
        array = self._cache.get(key)
        if array is None:
            return None
        try:
            return self._segmenter.unpack(array, (image.shape[0], image.shape[1]), settings)
        except ValueError:
            return None


def _entries(folder: Path) -> list[_Entry]:
    """Files of the cache, without those that another process removes meanwhile."""
    found = []
    for path in folder.glob("??/*.npy"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.append(_Entry(path, status.st_size, status.st_mtime))
    return found
