"""Predict: read one image, ask one segmenter, write what it drew; nothing else of the store is touched."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medsam3_core.inference.merging import merge_instances
from medsam3_core.inference.protocol import Segmenter, SliceInstances
from medsam3_core.inference.volumes import VolumeRequest, segment_volumes
from medsam3_core.prompts.checks import require_inside
from medsam3_core.prompts.prompts import SlicePrompt
from medsam3_core.settings.inference import InferenceSettings, Merge
from storage.exports.instance_overlays import DrawnSlice, PromptedInstances
from storage.exports.registry import format_of_file
from storage.exports.releases import write_slice, write_volume
from storage.sources.formats.single import InputImage

_RUN = "predict"


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """What is asked of one image.

    Attributes:
        prompts: Prompts by slice, each answered by itself.
        followed: Whether what is drawn on these slices of a volume is followed through the others.
        settings: Inference settings; with `merge=auto` every instance above the threshold is kept.
        out: File to write; the end of its name says what.
        caption: What a picture says about itself.
    """

    prompts: Mapping[int, Sequence[SlicePrompt]]
    followed: bool
    settings: InferenceSettings
    out: Path
    caption: str

    @property
    def all_prompts(self) -> list[SlicePrompt]:
        """Prompts of all slices; one that is asked on many slices stands there once."""
        found = {id(prompt): prompt for prompts in self.prompts.values() for prompt in prompts}
        return list(found.values())


@dataclass(frozen=True, slots=True)
class PredictRecord:
    """How it went.

    Attributes:
        found: Prompt and score of every instance, in the order in which they are written.
        slices: Slices that hold anything.
        seconds: Encoding and answering.
        device: Where it was computed.
        notes: What was done to fit.
    """

    found: tuple[tuple[str, float], ...]
    slices: int
    seconds: float
    device: str
    notes: tuple[str, ...]


def check_request(image: InputImage, request: PredictRequest) -> None:
    """Refuse what no segmenter could answer, before one is loaded.

    Raises:
        UsageError: If the file cannot be of this kind, or a prompt leaves the slice.
    """
    format_of_file(request.out)
    for prompt in request.all_prompts:
        require_inside(prompt, image.shape_yx)


def predict_image(image: InputImage, request: PredictRequest, segmenter: Segmenter) -> PredictRecord:
    """Answer the prompts on the one slice that they are for and write all instances.

    Raises:
        UnsupportedPromptError: If the segmenter cannot take a prompt.
        UsageError: If a prompt is not one.
        CaseDataError: If the slice is too large.
        StoreError: If the file cannot be written.
    """
    started = time.perf_counter()
    ((z, prompts),) = request.prompts.items()
    rgb = image.rgb(z, request.settings.window)
    encoding = segmenter.encode([rgb], request.settings)[0]
    answers = segmenter.segment(encoding, prompts, request.settings)
    drawn = [
        PromptedInstances(prompt, _kept(answer, prompt, request.settings))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    seconds = time.perf_counter() - started
    write_slice(DrawnSlice(image, z, drawn, request.caption, request.settings.window), request.out)
    found = [(item.prompt.structure, float(score)) for item in drawn for score in item.instances.scores]
    notes = dict.fromkeys(note for answer in answers for note in answer.fallbacks)
    return PredictRecord(tuple(found), int(bool(found)), seconds, segmenter.device, tuple(notes))


def predict_volume(image: InputImage, request: PredictRequest, segmenter: Segmenter) -> PredictRecord:
    """Answer the prompts on their slices, follow what is drawn where that is asked, and write a label map.

    Raises:
        UsageError: If anything but a label map is to be written.
        UnsupportedPromptError: If the segmenter cannot take a prompt.
        StoreError: If the file cannot be written.
    """
    format_of_file(request.out, volume=True)
    started = time.perf_counter()
    names = list(dict.fromkeys(prompt.structure for prompt in request.all_prompts))
    merge = Merge.UNION if request.settings.merge is Merge.AUTO else request.settings.merge
    asked = VolumeRequest(
        image.rgb,
        image.geometry,
        {_RUN: request.prompts},
        {_RUN: replace(request.settings, merge=merge)},
        names,
        followed=[_RUN] if request.followed else [],
    )
    answer = segment_volumes(segmenter, [asked])[0][_RUN]
    seconds = time.perf_counter() - started
    slices = write_volume(image, answer, request.out)
    found = [(name, float(score)) for name in names for score in answer.confidence(name)]
    return PredictRecord(tuple(found), slices, seconds, segmenter.device, answer.fallbacks)


def _kept(answer: SliceInstances, prompt: SlicePrompt, settings: InferenceSettings) -> SliceInstances:
    """All instances, unless the user chose which ones stand for the structure."""
    everything = settings.merge in (Merge.AUTO, Merge.UNION)
    return answer if everything else merge_instances(answer, prompt, settings)
