"""Predict: read one image, segment it, write the result; the rest of the store stays unchanged."""

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
    """Prompts for one image, and the file to write.

    Attributes:
        prompts: Prompts by slice, each answered separately.
        followed: True if the instances on these slices are followed through the volume.
        settings: Inference settings; with `merge=auto` every instance above the threshold is kept.
        out: File to write; its suffix selects the format.
        caption: Caption of a picture.
    """

    prompts: Mapping[int, Sequence[SlicePrompt]]
    followed: bool
    settings: InferenceSettings
    out: Path
    caption: str

    @property
    def all_prompts(self) -> list[SlicePrompt]:
        """Prompts of all slices; a prompt shared by many slices appears once."""
        found = {id(prompt): prompt for prompts in self.prompts.values() for prompt in prompts}
        return list(found.values())


@dataclass(frozen=True, slots=True)
class PredictRecord:
    """Result of a prediction.

    Attributes:
        found: Prompt and score of every instance, in the order of the file.
        slices: Slices with instances.
        seconds: Time of encoding and segmentation.
        notes: Measures taken to fit.
    """

    found: tuple[tuple[str, float], ...]
    slices: int
    seconds: float
    device: str
    notes: tuple[str, ...]


def check_request(image: InputImage, request: PredictRequest) -> None:
    """Refuse requests that no segmenter could answer, before one is loaded.

    Raises:
        UsageError: If the file format is unknown, or a prompt lies outside the slice.
    """
    format_of_file(request.out)
    for prompt in request.all_prompts:
        require_inside(prompt, image.shape_yx)


def predict_image(image: InputImage, request: PredictRequest, segmenter: Segmenter) -> PredictRecord:
    """Answer the prompts on their slice and write all instances.

    Raises:
        UnsupportedPromptError: If the segmenter does not accept a prompt.
        UsageError: If a prompt is invalid.
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
    """Answer the prompts on their slices, follow the instances if requested, and write a label map.

    Raises:
        UsageError: If the file is not a label map.
        UnsupportedPromptError: If the segmenter does not accept a prompt.
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
    """All instances, unless the user chose a rule for merging them."""
    everything = settings.merge in (Merge.AUTO, Merge.UNION)
    return answer if everything else merge_instances(answer, prompt, settings)
