"""Encodings of slices on disk, so that a later benchmark with other prompts skips the encoder.

    encodings/<aa>/<key>.npy, encodings/last-benchmark

The key is the SHA-256 over the slice as the segmenter saw it, the sha256 of the weights and all that decides what an
encoding is (precision, device, resolution, tiles, versions). Several worker processes share the folder: each file is
written beside and renamed. Within a benchmark the cache only grows, until it is full; between benchmarks it makes room
by dropping what the last one did not touch, the longest unused first.
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
"""Share of the size above which room is made between benchmarks."""
_LOOK_AGAIN = 0.02
"""Share of the size that a process writes before it looks at what the others have written."""

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
    """Where encodings are kept, and how many bytes they may take; small and picklable."""

    folder: Path
    size: int


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    size: int
    used: float


def prepare_cache(settings: CacheSettings) -> None:
    """Make room before a benchmark, and note that it begins.

    A cache that is nearly full drops what the benchmark before did not touch; one that is larger than its size, however
    that came about, drops the longest unused.

    Raises:
        StoreError: If the folder cannot be written.
    """
    sweep_leftovers(settings.folder, older_than_seconds=_ABANDONED_SECONDS)
    marker = settings.folder / _MARKER
    began = marker.stat().st_mtime if marker.exists() else 0.0
    entries = sorted(_entries(settings.folder), key=lambda entry: entry.used)
    total = sum(entry.size for entry in entries)
    stale = [entry for entry in entries if entry.used < began] if total >= _FULL * settings.size else []
    for entry in stale:
        total -= _drop(entry)
    trim_cache(settings)
    with replacing(marker) as scratch:
        scratch.touch()


def trim_cache(settings: CacheSettings) -> None:
    """Drop the longest unused encodings of a cache that is larger than its size."""
    entries = sorted(_entries(settings.folder), key=lambda entry: entry.used)
    total = sum(entry.size for entry in entries)
    for entry in entries:
        if total <= settings.size:
            return
        total -= _drop(entry)


class EncodingCache:
    """Arrays by key; one object per worker process."""

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._known = self._on_disk()
        self._unseen = 0

    def get(self, key: str) -> NDArray[np.generic] | None:
        """The array of a key, which counts as used now; None where there is none. A damaged one is dropped."""
        path = self._path(key)
        try:
            array: NDArray[np.generic] = np.load(path, allow_pickle=False)
        except OSError:  # not there, or not readable at the moment
            return None
        except (ValueError, EOFError):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # a cache of somebody else, which may be read alone
            os.utime(path)
        return array

    def put(self, key: str, array: NDArray[np.generic]) -> bool:
        """Keep an array unless the cache is full, or the disk is; whether it is kept."""
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
    """The segmenter with a cache in front of its encoder, where there is one and its encodings can be kept."""
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
    """A segmenter that looks for encodings in a cache before it makes them.

    Args:
        segmenter: What encodes and answers.
        weights_sha256: Identity of its weights.
        cache: Where encodings are kept.
    """

    def __init__(self, segmenter: CacheableSegmenter, weights_sha256: str, cache: EncodingCache) -> None:
        super().__init__(segmenter)
        self._segmenter: CacheableSegmenter = segmenter
        self._weights, self._cache = weights_sha256, cache
        self._device = segmenter.device
        self._versions = [importlib.metadata.version(name) for name in ("torch", "transformers")]

    def prepare(self, images: Sequence[SliceImage], settings: InferenceSettings) -> list["_Slice"]:
        """Look for encodings in the cache, and prepare all slices that have none there."""
        return [self._prepared(image, settings) for image in images]

    def encode(self, images: Sequence[Any], settings: InferenceSettings) -> list[Any]:
        """Encodings from the cache, and all that are not there in one call."""
        slices = [one if isinstance(one, _Slice) else self._prepared(one, settings) for one in images]
        found = [one.encoding for one in slices]
        missing = [index for index, encoding in enumerate(found) if encoding is None]
        made = self._segmenter.encode([slices[index].ready for index in missing], settings) if missing else []
        moved = self._segmenter.device != self._device  # full memory: what the CPU made is not what the key says
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
        """Follow objects through a volume, where `capabilities.propagation` says that it can."""
        assert isinstance(self._segmenter, FollowingSegmenter)
        return self._segmenter.follow(encoding_of, count, prompts, settings)

    def _prepared(self, image: SliceImage, settings: InferenceSettings) -> "_Slice":
        key = self._key(image, settings)
        encoding = self._read(key, image, settings)
        if encoding is not None:
            return _Slice(key, encoding, None)
        if isinstance(self._segmenter, PreparingSegmenter):
            return _Slice(key, None, self._segmenter.prepare([image], settings)[0])
        return _Slice(key, None, image)

    def _key(self, image: SliceImage, settings: InferenceSettings) -> str:
        identity = self._segmenter.encoding_identity(settings)
        return digest_json([self._weights, digest_array(image), identity, INFERENCE_CODE_VERSION, self._versions])

    def _read(self, key: str, image: SliceImage, settings: InferenceSettings) -> Any:
        array = self._cache.get(key)
        if array is None:
            return None
        try:
            return self._segmenter.unpack(array, (image.shape[0], image.shape[1]), settings)
        except ValueError:
            return None


def _entries(folder: Path) -> Iterator[_Entry]:
    """Files of the cache; one that another process takes away meanwhile does not count."""
    for path in folder.glob("??/*.npy"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            yield _Entry(path, status.st_size, status.st_mtime)


def _drop(entry: _Entry) -> int:
    entry.path.unlink(missing_ok=True)
    return entry.size
