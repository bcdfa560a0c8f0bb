"""Segment one volume for any number of runs in one pass: a slice is encoded once, whoever asks for it."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medsam3_core.errors import UsageError
from medsam3_core.geometry import VolumeGeometry
from medsam3_core.inference_settings import Dtype, InferenceSettings
from medsam3_core.merging import merge_instances, number_instances
from medsam3_core.prediction_volume import PredictionBuilder, VolumePrediction
from medsam3_core.prompts import SlicePrompt
from medsam3_core.sam3.prompt_checks import is_interactive
from medsam3_core.segmenters.protocol import FollowingSegmenter, Segmenter, SliceImage, SliceInstances
from medsam3_core.volume_propagation import (
    KEY_SLICE_ALONE,
    LINKED_BY_OVERLAP,
    MOST_OBJECTS,
    FollowedSlice,
    Seed,
    follow_by_detection,
    follow_with_tracker,
)

SliceLoader = Callable[[int, str], SliceImage]
"""Slice index z and the `window` of the settings to the slice as uint8, shape (y, x, 3)."""

RunPrompts = Mapping[int, Sequence[SlicePrompt]]
"""Prompts of one run by slice."""

_SLICES_PER_PASS = {"cpu": 1, "cuda": 8}
"""Slices encoded together: a CPU gains nothing from it and pays with memory."""
_MOST_KEPT = 64
"""Encodings kept between key slices while objects are followed: 0.7 GB at full size in bf16."""


@dataclass(frozen=True, slots=True, order=True)
class EncodingKey:
    """The settings that change the encoding of a slice; runs that share them share encodings.

    Ordered so that keys of the same network (resolution, dtype) are neighbours: it is then built once for all of them.
    """

    resolution: int
    dtype: Dtype
    tiles: int
    window: str

    @classmethod
    def of(cls, settings: InferenceSettings) -> Self:
        """The key of some settings."""
        return cls(settings.resolution, settings.dtype, settings.tiles, settings.window)


def segment_volume(
    segmenter: Segmenter,
    slices: SliceLoader,
    geometry: VolumeGeometry,
    prompts_by_run: Mapping[str, RunPrompts],
    settings_by_run: Mapping[str, InferenceSettings],
    structures: Sequence[str],
    *,
    followed: Collection[str] = (),
    slices_per_pass: int | None = None,
) -> dict[str, VolumePrediction]:
    """Answer the prompts of several runs on one volume.

    Each slice is loaded and encoded once per distinct `EncodingKey` among the runs that prompt it; a slice that nobody
    prompts is neither loaded nor encoded. Runs with different keys are served key by key, not slice by slice, so that
    a network of another resolution or precision is not built anew for every slice.

    Runs in `followed` prompt one slice per structure; what was drawn there is followed through the volume, see
    `medsam3_core.volume_propagation`. Slices between the key slices of several structures are passed twice; their
    encodings are kept in between, up to a limit.

    Args:
        segmenter: Weights or a baseline.
        slices: Loads one slice; may be called from this thread only.
        geometry: Of the volume.
        prompts_by_run: Run to slice to prompts, at most one prompt per structure and slice.
        settings_by_run: Settings of the same runs.
        structures: Names of all structures asked for; those never prompted stay background.
        followed: Runs whose prompted slice is a key slice.
        slices_per_pass: Slices encoded together; by default 8 on CUDA, else 1.

    Returns:
        One prediction per run, with the fallbacks that concern it.

    Raises:
        ValueError: If prompts and settings name different runs, or a structure is prompted twice on a slice.
        UsageError: If a prompt names a slice or structure that is not there, or a followed run prompts two slices of a
            structure.
        UnsupportedPromptError: If the segmenter cannot take a prompt.
    """
    if prompts_by_run.keys() != settings_by_run.keys():
        msg = f"prompts are for the runs {sorted(prompts_by_run)}, settings for {sorted(settings_by_run)}"
        raise ValueError(msg)
    _require_slices(prompts_by_run, geometry)
    per_pass = slices_per_pass or _SLICES_PER_PASS.get(segmenter.device.partition(":")[0], 1)
    builders = {run: PredictionBuilder(geometry.shape_zyx, structures) for run in prompts_by_run}
    for key, runs in sorted(_runs_by_key(settings_by_run).items()):
        shared = {run: _Run(prompts_by_run[run], settings_by_run[run], builders[run]) for run in runs}
        one_pass = _Pass(segmenter, slices, key, shared, geometry.shape_zyx[0])
        if geometry.shape_zyx[0] > 1:
            one_pass.follow([run for run in runs if run in followed])
        one_pass.answer_slices(per_pass)
    return {run: builder.finish() for run, builder in builders.items()}


def _runs_by_key(settings_by_run: Mapping[str, InferenceSettings]) -> dict[EncodingKey, list[str]]:
    runs: dict[EncodingKey, list[str]] = {}
    for run, settings in settings_by_run.items():
        runs.setdefault(EncodingKey.of(settings), []).append(run)
    return runs


@dataclass(frozen=True, eq=False)
class _Run:
    prompts: RunPrompts
    settings: InferenceSettings
    builder: PredictionBuilder


class _Pass:
    """One pass over the slices of a volume for all runs with the same `EncodingKey`."""

    def __init__(
        self, segmenter: Segmenter, slices: SliceLoader, key: EncodingKey, runs: Mapping[str, _Run], depth: int
    ) -> None:
        self._segmenter, self._slices, self._key, self._depth = segmenter, slices, key, depth
        self._runs = runs
        self._settings = next(iter(runs.values())).settings
        self._waiting: dict[int, list[str]] = {}
        for name, run in runs.items():
            for z, prompts in run.prompts.items():
                if prompts:
                    self._waiting.setdefault(z, []).append(name)
        self._kept: dict[int, Any] = {}
        self._passed_twice = range(0)

    def answer_slices(self, per_pass: int) -> None:
        """Answer what waits, slice by slice; at most `per_pass` encodings live at a time."""
        wanted = sorted(self._waiting)
        for start in range(0, len(wanted), per_pass):
            batch = wanted[start : start + per_pass]
            encodings = self._segmenter.encode([self._slices(z, self._key.window) for z in batch], self._settings)
            for z, encoding in zip(batch, encodings, strict=True):
                self._answer_waiting(z, encoding)

    def follow(self, names: Sequence[str]) -> None:
        """Follow the structures of some runs through the volume; other runs are answered on the slices it passes."""
        keys = [z for name in names for z, prompts in self._runs[name].prompts.items() if prompts]
        if not keys:
            return
        _require_one_key_slice({name: self._runs[name].prompts for name in names})
        can = self._segmenter.capabilities
        if can.propagation and self._key.tiles > 1:
            msg = f"objects are followed through whole slices, not through tiles={self._key.tiles}; use tiles=1"
            raise UsageError(msg)
        if not can.propagation:
            for name in names:
                self._runs[name].builder.note([LINKED_BY_OVERLAP if can.text else KEY_SLICE_ALONE])
            if not can.text:
                return  # the key slices wait with all others
        self._passed_twice = range(min(keys), max(keys) + 1)
        for z in keys:
            self._waiting[z] = [name for name in self._waiting[z] if name not in names]
        seeds = [seed for name in names for z in sorted(set(keys)) for seed in self._seeds(name, z)]
        for drawn in self._followed(seeds):
            builder = self._runs[drawn.seed.run].builder
            _add(builder, drawn.seed.prompt.structure, drawn.z, drawn.instances, drawn.objects)
        self._kept.clear()
        self._waiting = {z: waiting for z, waiting in self._waiting.items() if waiting}

    def _followed(self, seeds: Sequence[Seed]) -> Iterator[FollowedSlice]:
        if isinstance(self._segmenter, FollowingSegmenter) and self._segmenter.capabilities.propagation:
            return follow_with_tracker(self._segmenter, self._encoding, self._depth, seeds)
        started = [seed for seed in seeds if seed.drawn is not None and len(seed.drawn.scores)]
        return follow_by_detection(self._segmenter, self._encoding, self._depth, started) if started else iter(())

    def _seeds(self, name: str, z: int) -> Iterator[Seed]:
        """What is drawn on a key slice: by the concept head, unless the tracker is to answer the prompt itself."""
        run = self._runs[name]
        for prompt in run.prompts.get(z, ()):
            if self._segmenter.capabilities.propagation and is_interactive(prompt, run.settings.mode):
                yield Seed(name, z, prompt, run.settings, None)
                continue
            answer = self._segmenter.segment(self._encoding(z), [prompt], run.settings)[0]
            merged = merge_instances(answer, prompt, run.settings)
            if len(merged.scores) > MOST_OBJECTS:
                run.builder.note([f"objects-capped:{prompt.structure}:{len(merged.scores)}>{MOST_OBJECTS}"])
                best = np.sort(np.argsort(-merged.scores, kind="stable")[:MOST_OBJECTS])
                merged = SliceInstances(merged.masks[best], merged.scores[best], merged.boxes_xyxy[best])
            run.builder.note(answer.fallbacks)
            _add(run.builder, prompt.structure, z, merged, np.arange(len(merged.scores)))
            yield Seed(name, z, prompt, run.settings, merged)

    def _encoding(self, z: int) -> Any:
        """The encoding of a slice, which also answers whoever waits for it."""
        if z in self._kept:
            return self._kept[z]
        encoding = self._segmenter.encode([self._slices(z, self._key.window)], self._settings)[0]
        if z in self._waiting:
            self._answer_waiting(z, encoding)
        if z in self._passed_twice and len(self._kept) < _MOST_KEPT:
            self._kept[z] = encoding
        return encoding

    def _answer_waiting(self, z: int, encoding: Any) -> None:
        for name in self._waiting.pop(z):
            run = self._runs[name]
            prompts = run.prompts[z]
            answers = self._segmenter.segment(encoding, prompts, run.settings)
            for prompt, answer in zip(prompts, answers, strict=True):
                _add(run.builder, prompt.structure, z, merge_instances(answer, prompt, run.settings))
                run.builder.note(answer.fallbacks)


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


def _require_slices(prompts_by_run: Mapping[str, RunPrompts], geometry: VolumeGeometry) -> None:
    depth = geometry.shape_zyx[0]
    for run, prompts in prompts_by_run.items():
        if outside := sorted(z for z in prompts if not 0 <= z < depth):
            msg = f"run {run!r} prompts slice {outside[0]}, the volume has slices 0..{depth - 1}"
            raise UsageError(msg)
