"""Segment volumes for any number of runs in one pass: a slice is encoded once, whoever asks for it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import UsageError
from medsam3_core.inference.predictions import PredictionBuilder, VolumePrediction
from medsam3_core.inference.protocol import Segmenter
from medsam3_core.inference.slices import EncodingKey, PassRun, RunPrompts, SliceLoader, SlicePass, answer_slices
from medsam3_core.prompts.prompts import SlicePrompt
from medsam3_core.settings.inference import InferenceSettings

_SLICES_PER_PASS = {"cpu": 1, "cuda": 8}
"""Slices encoded together: a CPU gains nothing from it and pays with memory."""
_OF_RECIPE = "recipe"


def slices_per_pass(segmenter: Segmenter) -> int:
    """How many slices a segmenter encodes together where nobody says otherwise."""
    return _SLICES_PER_PASS.get(segmenter.device.partition(":")[0], 1)


@dataclass(frozen=True, eq=False)
class VolumeRequest:
    """What is asked of one volume.

    Attributes:
        slices: Loads one slice; called from one thread at a time, not always the same.
        geometry: Of the volume.
        prompts_by_run: Run to slice to prompts, at most one prompt per structure and slice.
        settings_by_run: Settings of the same runs.
        structures: Names of all structures asked for; those never prompted stay background.
        followed: Runs whose prompted slice is a key slice.
        windows: Intensity policies of the structures that have one of their own; settings that name one win.
    """

    slices: SliceLoader
    geometry: VolumeGeometry
    prompts_by_run: Mapping[str, RunPrompts]
    settings_by_run: Mapping[str, InferenceSettings]
    structures: Sequence[str]
    followed: Collection[str] = ()
    windows: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.prompts_by_run.keys() != self.settings_by_run.keys():
            runs = (
                f"prompts are for the runs {sorted(self.prompts_by_run)}, settings for {sorted(self.settings_by_run)}"
            )
            raise ValueError(runs)
        depth = self.geometry.shape_zyx[0]
        for run, prompts in self.prompts_by_run.items():
            if outside := sorted(z for z in prompts if not 0 <= z < depth):
                msg = f"run {run!r} prompts slice {outside[0]}, the volume has slices 0..{depth - 1}"
                raise UsageError(msg)

    def prompts_by_key(self) -> dict[EncodingKey, dict[str, dict[int, list[SlicePrompt]]]]:
        """Prompts by what decides the encoding, then by run and slice."""
        found: dict[EncodingKey, dict[str, dict[int, list[SlicePrompt]]]] = {}
        for run, prompts in self.prompts_by_run.items():
            settings = self.settings_by_run[run]
            for z, on_slice in prompts.items():
                for prompt in on_slice:
                    own = self.windows.get(prompt.structure, _OF_RECIPE)
                    window = own if settings.window == _OF_RECIPE else settings.window
                    by_run = found.setdefault(EncodingKey.of(settings, window), {})
                    by_run.setdefault(run, {}).setdefault(z, []).append(prompt)
        return found


def segment_volumes(
    segmenter: Segmenter, requests: Sequence[VolumeRequest], *, per_pass: int | None = None
) -> list[dict[str, VolumePrediction]]:
    """Answer the prompts of several runs on one or more volumes.

    Each slice is loaded and encoded once per distinct `EncodingKey` among the runs that prompt it; a slice that nobody
    prompts is neither loaded nor encoded. Runs with different keys are served key by key, not slice by slice, so that
    a network of another resolution or precision is not built anew for every slice. Slices of several volumes share
    the passes of the encoder, and the next pass is loaded and prepared while the current one computes.

    Runs in `followed` prompt one slice per structure; what was drawn there is followed through the volume, see
    `medsam3_core.inference.propagation`. Slices between the key slices of several structures are passed twice; their
    encodings are kept in between, up to a limit.

    Args:
        segmenter: Weights or a baseline.
        requests: What is asked of which volume.
        per_pass: Slices encoded together; by default 8 on CUDA, else 1.

    Returns:
        Per request, one prediction per run, with the fallbacks that concern it.

    Raises:
        ValueError: If prompts and settings name different runs, or a structure is prompted twice on a slice.
        UsageError: If a prompt names a slice or structure that is not there, or a followed run prompts two slices of a
            structure.
        UnsupportedPromptError: If the segmenter cannot take a prompt.
    """
    together = per_pass or slices_per_pass(segmenter)
    builders = [_builders(request) for request in requests]
    passes: dict[EncodingKey, list[SlicePass]] = {}
    for request, by_run in zip(requests, builders, strict=True):
        depth = request.geometry.shape_zyx[0]
        for key, prompts in sorted(request.prompts_by_key().items()):
            runs = {run: PassRun(prompts[run], request.settings_by_run[run], by_run[run]) for run in prompts}
            one = SlicePass(segmenter, request.slices, key, runs, depth)
            if depth > 1:
                one.follow(request.followed, together)
            passes.setdefault(key, []).append(one)
    for _, same_key in sorted(passes.items()):
        answer_slices(segmenter, same_key, together)
    return [{run: builder.finish() for run, builder in by_run.items()} for by_run in builders]


def _builders(request: VolumeRequest) -> dict[str, PredictionBuilder]:
    shape_zyx, structures = request.geometry.shape_zyx, request.structures
    return {run: PredictionBuilder(shape_zyx, structures) for run in request.prompts_by_run}
