"""Segmentation of volumes for any number of runs in one pass: a slice is encoded once for all of them."""

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
"""Slices encoded together: on a CPU more would cost memory and save no time."""
_OF_RECIPE = "recipe"


def slices_per_pass(segmenter: Segmenter) -> int:
    """Default number of slices that a segmenter encodes together."""
    return _SLICES_PER_PASS.get(segmenter.device.partition(":")[0], 1)


@dataclass(frozen=True, eq=False)
class VolumeRequest:
    """Prompts of all runs on one volume.

    Attributes:
        slices: Loads one slice; called from one thread at a time, not always the same.
        geometry: Geometry of the volume.
        prompts_by_run: Run to slice to prompts, at most one prompt per structure and slice.
        settings_by_run: Settings of the same runs.
        structures: Names of all requested structures; those without prompt stay background.
        followed: Runs whose prompted slice is a key slice.
        windows: Intensity policies of structures with their own; a policy in the settings takes precedence.
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
            msg = f"prompts are for the runs {sorted(self.prompts_by_run)}, settings for {sorted(self.settings_by_run)}"
            raise ValueError(msg)
        depth = self.geometry.shape_zyx[0]
        for run, prompts in self.prompts_by_run.items():
            if outside := sorted(z for z in prompts if not 0 <= z < depth):
                msg = f"run {run!r} prompts slice {outside[0]}, the volume has slices 0..{depth - 1}"
                raise UsageError(msg)

    def prompts_by_key(self) -> dict[EncodingKey, dict[str, dict[int, list[SlicePrompt]]]]:
        """Prompts by the key of the encoding, then by run and slice."""
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

    Each slice is loaded and encoded once per distinct `EncodingKey` among the runs that prompt it; a slice without
    prompt is neither loaded nor encoded. Runs with different keys are processed key by key, not slice by slice, so that
    a network of another resolution or precision is built once. Slices of several volumes share the passes of the
    encoder, and the next pass is loaded and prepared while the current one computes.

    Runs in `followed` prompt one slice per structure; its instances are followed through the volume, see
    `medsam3_core.inference.propagation`. Slices between the key slices of several structures are passed twice; their
    encodings are kept in between, up to a limit.

    Args:
        segmenter: Weights or a baseline.
        requests: One request per volume.
        per_pass: Slices encoded together; by default 8 on CUDA, else 1.

    Returns:
        Per request, one prediction per run, with its fallbacks.

    Raises:
        ValueError: If prompts and settings name different runs, or a structure is prompted twice on a slice.
        UsageError: If a prompt names an unknown slice or structure, or a followed run prompts two slices of a
            structure.
        UnsupportedPromptError: If the segmenter does not accept a prompt.
    """
    together = per_pass or slices_per_pass(segmenter)
    builders = [
        {run: PredictionBuilder(request.geometry.shape_zyx, request.structures) for run in request.prompts_by_run}
        for request in requests
    ]
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
