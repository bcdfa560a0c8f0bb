"""Passes over the slices of volumes: prompts of all runs on a slice are answered from one encoding."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medsam3_core.errors import UsageError
from medsam3_core.inference.merging import merge_instances, number_instances
from medsam3_core.inference.one_ahead import one_ahead
from medsam3_core.inference.predictions import PredictionBuilder
from medsam3_core.inference.propagation import (
    KEY_SLICE_ALONE,
    LINKED_BY_OVERLAP,
    MAX_OBJECTS,
    FollowedSlice,
    Seed,
    follow_by_detection,
    follow_with_tracker,
)
from medsam3_core.inference.protocol import (
    FollowingSegmenter,
    PreparingSegmenter,
    Segmenter,
    SliceImage,
    SliceInstances,
)
from medsam3_core.prompts.checks import is_interactive
from medsam3_core.prompts.prompts import SlicePrompt
from medsam3_core.settings.inference import Dtype, InferenceSettings

SliceLoader = Callable[[int, str], SliceImage]
"""Slice index z and an intensity policy, or `recipe`, to the slice as uint8, shape (y, x, 3)."""

RunPrompts = Mapping[int, Sequence[SlicePrompt]]
"""Prompts of one run by slice."""

_MAX_KEPT = 64
"""Maximum encodings kept between key slices while objects are followed: 0.7 GB at full size in bf16."""


@dataclass(frozen=True, slots=True, order=True)
class EncodingKey:
    """Settings that change the encoding of a slice; runs with equal keys share encodings.

    Ordered so that keys of the same network (resolution, dtype) are neighbours: it is then built once for all of them.
    """

    resolution: int
    dtype: Dtype
    tiles: int
    window: str

    @classmethod
    def of(cls, settings: InferenceSettings, window: str) -> Self:
        """The key of some settings with the window that applies."""
        return cls(settings.resolution, settings.dtype, settings.tiles, window)


@dataclass(frozen=True, eq=False)
class PassRun:
    """Prompts of one run in a pass, and the builder of its prediction."""

    prompts: RunPrompts
    settings: InferenceSettings
    builder: PredictionBuilder


class SlicePass:
    """One pass over the slices of a volume for all runs with the same `EncodingKey`."""

    def __init__(
        self, segmenter: Segmenter, slices: SliceLoader, key: EncodingKey, runs: Mapping[str, PassRun], depth: int
    ) -> None:
        self._segmenter, self._slices, self._key, self._depth = segmenter, slices, key, depth
        self._runs = runs
        self.settings = next(iter(runs.values())).settings
        self._waiting: dict[int, list[str]] = {}
        for name, run in runs.items():
            for z in run.prompts:
                self._waiting.setdefault(z, []).append(name)
        self._kept: dict[int, Any] = {}
        self._passed_twice = range(0)
        self._coming: dict[int, Any] = {}
        self._last = -1
        self._per_pass = 1

    @property
    def waiting(self) -> list[int]:
        """Slices with unanswered prompts, in order."""
        return sorted(self._waiting)

    def load(self, z: int) -> SliceImage:
        """The slice as input of the segmenter."""
        return self._slices(z, self._key.window)

    def answer(self, z: int, encoding: Any) -> None:
        """Answer all prompts on a slice."""
        for name in self._waiting.pop(z):
            run = self._runs[name]
            prompts = run.prompts[z]
            answers = self._segmenter.segment(encoding, prompts, run.settings)
            for prompt, answer in zip(prompts, answers, strict=True):
                _add(run.builder, prompt.structure, z, merge_instances(answer, prompt, run.settings))
                run.builder.note(answer.fallbacks)

    def follow(self, followed: Collection[str], per_pass: int) -> None:
        """Follow the structures of some runs from their key slices; prompts of others are answered on the way."""
        names = [name for name in self._runs if name in followed]
        keys = [z for name in names for z in self._runs[name].prompts]
        if not keys:
            return
        _require_one_key_slice({name: self._runs[name].prompts for name in names})
        can = self._segmenter.capabilities
        if can.propagation and self._key.tiles > 1:
            msg = f"a tracker follows objects through whole slices, not through tiles={self._key.tiles}; use tiles=1"
            raise UsageError(msg)
        if not can.propagation:
            for name in names:
                self._runs[name].builder.note([LINKED_BY_OVERLAP if can.text else KEY_SLICE_ALONE])
            if not can.text:
                return  # the key slices are answered with all others
        self._passed_twice = range(min(keys), max(keys) + 1)
        for z in keys:
            self._waiting[z] = [name for name in self._waiting[z] if name not in names]
        seeds = [seed for name in names for z in sorted(set(keys)) for seed in self._seeds(name, z)]
        self._per_pass = per_pass
        for drawn in self._follow_seeds(seeds):
            builder = self._runs[drawn.seed.run].builder
            _add(builder, drawn.seed.prompt.structure, drawn.z, drawn.instances, drawn.objects)
        self._kept.clear()
        self._coming.clear()
        self._waiting = {z: waiting for z, waiting in self._waiting.items() if waiting}

    def _follow_seeds(self, seeds: Sequence[Seed]) -> Iterator[FollowedSlice]:
        if isinstance(self._segmenter, FollowingSegmenter) and self._segmenter.capabilities.propagation:
            return follow_with_tracker(self._segmenter, self._encoding, self._depth, seeds, self._note)
        started = [seed for seed in seeds if seed.drawn is not None and len(seed.drawn.scores)]
        self._per_pass = 1  # detection ends where an object ends: slices beyond may not be needed
        return follow_by_detection(self._segmenter, self._encoding, self._depth, started) if started else iter(())

    def _note(self, seed: Seed, fallbacks: tuple[str, ...]) -> None:
        self._runs[seed.run].builder.note(fallbacks)

    def _seeds(self, name: str, z: int) -> Iterator[Seed]:
        """Seeds of a key slice: drawn by the concept head, unless the tracker answers the prompt itself."""
        run = self._runs[name]
        for prompt in run.prompts.get(z, ()):
            if self._segmenter.capabilities.propagation and is_interactive(prompt, run.settings.mode):
                yield Seed(name, z, prompt, run.settings, None)
                continue
            answer = self._segmenter.segment(self._encoding(z), [prompt], run.settings)[0]
            merged = merge_instances(answer, prompt, run.settings)
            if len(merged.scores) > MAX_OBJECTS:
                run.builder.note([f"objects-capped:{prompt.structure}:{len(merged.scores)}>{MAX_OBJECTS}"])
                larger_first = np.lexsort((-merged.masks.sum(axis=(1, 2)), -merged.scores))  # of equal scores
                merged = merged.at(np.sort(larger_first[:MAX_OBJECTS]))
            run.builder.note(merged.fallbacks)
            _add(run.builder, prompt.structure, z, merged, np.arange(len(merged.scores)))
            yield Seed(name, z, prompt, run.settings, merged)

    def _encoding(self, z: int) -> Any:
        """The encoding of a slice on the way through the volume; prompts on that slice are answered too."""
        if z in self._kept:
            return self._kept[z]
        if z not in self._coming:
            self._encode_from(z)
        encoding, self._last = self._coming.pop(z), z
        if z in self._waiting:
            self.answer(z, encoding)
        if z in self._passed_twice and len(self._kept) < _MAX_KEPT:
            self._kept[z] = encoding
        return encoding

    def _encode_from(self, z: int) -> None:
        """Encode a slice together with the next ones in this direction."""
        step = 1 if z == self._last + 1 else -1 if z == self._last - 1 else 0
        ahead = range(z, z + step * self._per_pass, step) if step else range(z, z + 1)
        batch = [one for one in ahead if 0 <= one < self._depth and one not in self._kept]
        encodings = self._segmenter.encode([self.load(one) for one in batch], self.settings)
        self._coming = dict(zip(batch, encodings, strict=True))


def answer_slices(segmenter: Segmenter, passes: Sequence[SlicePass], per_pass: int) -> None:
    """Answer the open prompts in passes of the same key; at most `per_pass` encodings exist at a time.

    The next slices are loaded and prepared while the current ones are computed.
    """
    wanted = [(one, z) for one in passes for z in one.waiting]
    batches = [wanted[start : start + per_pass] for start in range(0, len(wanted), per_pass)]

    def ready(batch: Sequence[tuple[SlicePass, int]]) -> list[Any]:
        images = [one.load(z) for one, z in batch]
        if isinstance(segmenter, PreparingSegmenter):
            return segmenter.prepare(images, batch[0][0].settings)
        return images

    for batch, prepared in one_ahead(ready, batches):
        encodings = segmenter.encode(prepared, batch[0][0].settings)
        for (one, z), encoding in zip(batch, encodings, strict=True):
            one.answer(z, encoding)


def _add(
    builder: PredictionBuilder,
    structure: str,
    z: int,
    instances: SliceInstances,
    objects: NDArray[np.int64] | None = None,
) -> None:
    labels, numbered = number_instances(instances)
    scores = instances.scores[numbered].astype(np.float32)
    builder.add(structure, z, labels, scores, None if objects is None else objects[numbered])
    builder.note(instances.fallbacks)


def _require_one_key_slice(prompts_by_run: Mapping[str, RunPrompts]) -> None:
    for run, prompts in prompts_by_run.items():
        first: dict[str, int] = {}
        for z in sorted(prompts):
            for prompt in prompts[z]:
                if first.setdefault(prompt.structure, z) != z:
                    msg = (
                        f"run {run!r} prompts {prompt.structure!r} on the slices {first[prompt.structure]} and {z}; "
                        "objects are followed from one key slice"
                    )
                    raise UsageError(msg)
