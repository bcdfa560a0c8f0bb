"""Segment one volume for any number of runs in one pass: a slice is encoded once, whoever asks for it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from medsam3_core.errors import UsageError
from medsam3_core.geometry import VolumeGeometry
from medsam3_core.inference_settings import Dtype, InferenceSettings
from medsam3_core.merging import merge_instances, to_label_slice
from medsam3_core.prediction_volume import PredictionBuilder, VolumePrediction
from medsam3_core.prompts import SlicePrompt
from medsam3_core.segmenters.protocol import Segmenter, SliceImage

SliceLoader = Callable[[int, str], SliceImage]
"""Slice index z and the `window` of the settings to the slice as uint8, shape (y, x, 3)."""

RunPrompts = Mapping[int, Sequence[SlicePrompt]]
"""Prompts of one run by slice."""

_SLICES_PER_PASS = {"cpu": 1, "cuda": 8}
"""Slices encoded together: a CPU gains nothing from it and pays with memory."""


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
    slices_per_pass: int | None = None,
) -> dict[str, VolumePrediction]:
    """Answer the prompts of several runs on one volume.

    Each slice is loaded and encoded once per distinct `EncodingKey` among the runs that prompt it; a slice that nobody
    prompts is neither loaded nor encoded. Runs with different keys are served key by key, not slice by slice, so that
    a network of another resolution or precision is not built anew for every slice.

    Args:
        segmenter: Weights or a baseline.
        slices: Loads one slice; may be called from this thread only.
        geometry: Of the volume.
        prompts_by_run: Run to slice to prompts, at most one prompt per structure and slice.
        settings_by_run: Settings of the same runs.
        structures: Names of all structures asked for; those never prompted stay background.
        slices_per_pass: Slices encoded together; by default 8 on CUDA, else 1.

    Returns:
        One prediction per run, with the fallbacks that concern it.

    Raises:
        ValueError: If prompts and settings name different runs, or a structure is prompted twice on a slice.
        UsageError: If a prompt names a slice or structure that is not there.
        UnsupportedPromptError: If the segmenter cannot take a prompt.
    """
    if prompts_by_run.keys() != settings_by_run.keys():
        msg = f"prompts are for the runs {sorted(prompts_by_run)}, settings for {sorted(settings_by_run)}"
        raise ValueError(msg)
    _require_slices(prompts_by_run, geometry)
    per_pass = slices_per_pass or _SLICES_PER_PASS.get(segmenter.device.partition(":")[0], 1)
    builders = {run: PredictionBuilder(geometry.shape_zyx, structures) for run in prompts_by_run}
    for key, runs in sorted(_runs_by_key(settings_by_run).items()):
        prompted = {run: prompts_by_run[run] for run in runs}
        for z, encoding in _encodings(segmenter, slices, key, prompted, settings_by_run[runs[0]], per_pass):
            for run in runs:
                if prompts := prompted[run].get(z):
                    _answer(segmenter, encoding, z, prompts, settings_by_run[run], builders[run])
    return {run: builder.finish() for run, builder in builders.items()}


def _runs_by_key(settings_by_run: Mapping[str, InferenceSettings]) -> dict[EncodingKey, list[str]]:
    runs: dict[EncodingKey, list[str]] = {}
    for run, settings in settings_by_run.items():
        runs.setdefault(EncodingKey.of(settings), []).append(run)
    return runs


def _encodings(
    segmenter: Segmenter,
    slices: SliceLoader,
    key: EncodingKey,
    prompted: Mapping[str, RunPrompts],
    settings: InferenceSettings,
    per_pass: int,
) -> Iterator[tuple[int, Any]]:
    """Every slice that some run prompts, in order, with its encoding; at most `per_pass` encodings live at a time."""
    wanted = sorted({z for prompts in prompted.values() for z, asked in prompts.items() if asked})
    for start in range(0, len(wanted), per_pass):
        batch = wanted[start : start + per_pass]
        encodings = segmenter.encode([slices(z, key.window) for z in batch], settings)
        yield from zip(batch, encodings, strict=True)


def _answer(
    segmenter: Segmenter,
    encoding: Any,
    z: int,
    prompts: Sequence[SlicePrompt],
    settings: InferenceSettings,
    builder: PredictionBuilder,
) -> None:
    answers = segmenter.segment(encoding, prompts, settings)
    for prompt, answer in zip(prompts, answers, strict=True):
        labels, scores = to_label_slice(merge_instances(answer, prompt, settings))
        builder.add(prompt.structure, z, labels, scores)
        builder.note(answer.fallbacks)


def _require_slices(prompts_by_run: Mapping[str, RunPrompts], geometry: VolumeGeometry) -> None:
    depth = geometry.shape_zyx[0]
    for run, prompts in prompts_by_run.items():
        if outside := sorted(z for z in prompts if not 0 <= z < depth):
            msg = f"run {run!r} prompts slice {outside[0]}, the volume has slices 0..{depth - 1}"
            raise UsageError(msg)
