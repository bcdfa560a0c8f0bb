"""`medsam3 predict`: one image, one set of weights, in this process; no Prefect, no Dask."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flows.messages.console import say
from medsam3_core.capabilities import Capabilities
from medsam3_core.errors import UnsupportedPromptError, UsageError
from medsam3_core.inference.protocol import Segmenter
from medsam3_core.prompts.checks import is_interactive
from medsam3_core.prompts.prompts import SlicePrompt
from medsam3_core.prompts.words import assemble_prompts, parse_box, parse_point
from medsam3_core.settings.inference import InferenceSettings, PromptMode
from storage.exports.instances import InstanceForm, form_of
from storage.prompts.files import prompts_of_image
from storage.prompts.masks import read_mask_prompts
from storage.sources.formats.single import InputImage, read_input_image
from storage.store.layout import StoreLayout
from storage.weights.registry import find_weights, is_location, load_segmenter, load_unregistered, registered_weights
from storage.weights.weights import Weights
from tasks.predict.image import PredictRecord, PredictRequest, check_request, predict_image, predict_volume

_MOST_LISTED = 20
_LONGEST = 80
_HEADS = {
    "interactive": "interactive head, which points, masks and mode=interactive need",
    "text": "text encoder",
}


@dataclass(frozen=True, slots=True)
class PredictWords:
    """What stands on the command line.

    Attributes:
        image: The image.
        weights: Name, `NAME@N`, path or `hf://` location.
        texts: Texts, each a prompt of its own.
        boxes: Boxes `x0,y0,x1,y1[,-]`.
        points: Points `x,y[,+|-]`.
        masks: Files with drawn masks.
        prompts: A prompts file, instead of texts, boxes, points and masks.
        slice: Slice of a volume; None where there is only one, or a text is asked on all.
        alone: Whether a volume is segmented on that slice alone.
        threshold: Score above which instances are kept; None leaves it to the settings.
        settings: Inference settings as `key=value`.
        out: File to write.
    """

    image: Path
    weights: str
    texts: tuple[str, ...]
    boxes: tuple[str, ...]
    points: tuple[str, ...]
    masks: tuple[Path, ...]
    prompts: Path | None
    slice: int | None
    alone: bool
    threshold: float | None
    settings: tuple[str, ...]
    out: Path


def run_predict(store: StoreLayout, words: PredictWords) -> Path:
    """Segment the image and write the file; returns it."""
    settings = _settings(words)
    form = form_of(words.out)
    image = read_input_image(words.image)
    volume = form is InstanceForm.NIFTI and image.depth > 1
    asked = _asked(words, image, settings, volume=volume)
    caption = f"{words.weights}   {_said(words)}   {settings.canonical()}"
    request = PredictRequest(asked, volume and not words.alone and _are_keys(asked), settings, words.out, caption)
    check_request(image, request)
    segmenter = _load(store, words.weights, request)
    can = segmenter.capabilities
    followed = request.followed and can.follows
    if volume:
        say(_way(words, request, image.depth, can, followed=followed))
    answer = predict_volume if followed or len(asked) > 1 else predict_image
    record = answer(image, replace(request, followed=followed), segmenter)
    _report(record, image, settings)
    return words.out


def _asked(
    words: PredictWords, image: InputImage, settings: InferenceSettings, *, volume: bool
) -> Mapping[int, Sequence[SlicePrompt]]:
    """Prompts by slice: those of the command line are for one slice, a text without --slice for all of a volume."""
    if words.prompts is not None:
        return _asked_by_file(words, words.prompts, image, settings, volume=volume)
    boxes, points = [parse_box(text) for text in words.boxes], [parse_point(text) for text in words.points]
    everywhere = volume and words.slice is None and bool(words.texts) and not (boxes or points or words.masks)
    slices = range(image.depth) if everywhere else (image.require_slice(words.slice),)
    masks = [mask for path in words.masks for mask in read_mask_prompts(path, slices[0])]
    prompts = assemble_prompts(words.texts, boxes, points, settings.mode, masks)
    return dict.fromkeys(slices, prompts)


def _asked_by_file(
    words: PredictWords, file: Path, image: InputImage, settings: InferenceSettings, *, volume: bool
) -> Mapping[int, Sequence[SlicePrompt]]:
    if words.texts or words.boxes or words.points or words.masks:
        msg = "--prompts FILE says all that is asked; leave out --text, --box, --point and --mask"
        raise UsageError(msg)
    asked = prompts_of_image(file, image.path, image.geometry, settings.mode)
    if words.slice is not None:
        z = image.require_slice(words.slice)
        if z not in asked:
            msg = f"{file} asks nothing on slice {z}; it has prompts on: {', '.join(map(str, sorted(asked)))}"
            raise UsageError(msg)
        return {z: asked[z]}
    if len(asked) > 1 and not volume:
        msg = (
            f"{file} has prompts on {len(asked)} slices, and {words.out.name} holds one; name it with --slice, or "
            f"write a label map ({InstanceForm.NIFTI})"
        )
        raise UsageError(msg)
    return asked


def _are_keys(asked: Mapping[int, Sequence[SlicePrompt]]) -> bool:
    """Whether every structure is asked for on one slice alone."""
    names = [prompt.structure for prompts in asked.values() for prompt in prompts]
    return len(names) == len(set(names))


def _way(words: PredictWords, request: PredictRequest, depth: int, can: Capabilities, *, followed: bool) -> str:
    """How a volume is gone through, before it takes its time."""
    slices = sorted(request.prompts)
    where = f"slice{'s' if len(slices) > 1 else ''} {', '.join(map(str, slices))}"
    are = "are" if len(slices) > 1 else "is"
    if len(slices) == depth:
        return f"asking on all {depth} slices; objects are linked by overlap"
    if followed and can.propagation:
        return f"{where} {are} prompted, what is drawn there is followed through all {depth} slices by the tracker"
    if followed:
        return (
            f"{where} {are} prompted; {words.weights} has no tracker, so what is drawn there is followed through "
            f"{depth} slices by detection on each, linked by overlap"
        )
    why = f"{words.weights} has neither a tracker nor a detector to go on with"
    if words.alone:
        why = "as asked"
    elif not request.followed:
        why = "a structure is prompted on several, nothing is followed"
    return f"{where} alone {are} segmented, the others stay 0: {why}"


def _settings(words: PredictWords) -> InferenceSettings:
    given = [] if words.threshold is None else [f"threshold={words.threshold}"]
    settings = InferenceSettings.parse([*words.settings, *given])
    return replace(settings, mode=PromptMode.INTERACTIVE) if words.points or words.masks else settings


def _said(words: PredictWords) -> str:
    if words.prompts is not None:
        return words.prompts.name
    clicked = [*words.points, *(f"mask {path.name}" for path in words.masks)]
    return "; ".join([*map(repr, words.texts), *(f"box {one}" for one in words.boxes), *clicked])


def _load(store: StoreLayout, name: str, request: PredictRequest) -> Segmenter:
    """The segmenter, refused before it is loaded where its name already tells that it cannot answer."""
    if not is_location(store, name):
        found = find_weights(store, name)
        _require_capable(store, name, found.capabilities, request)
        if found.path is not None:
            _check_texts(request)
        return load_segmenter(found, _device(found))
    _check_texts(request)
    segmenter = load_unregistered(store, name, _device(None))
    _require_capable(store, name, segmenter.capabilities, request)
    return segmenter


def _device(weights: Weights | None) -> str:
    if weights is not None and weights.path is None:
        return "cpu"
    import torch

    return os.environ.get("MEDSAM3_DEVICE", "cuda:0" if torch.cuda.is_available() else "cpu")


def _check_texts(request: PredictRequest) -> None:
    """Empty texts and special tokens are refused before a checkpoint is read."""
    from medsam3_core.sam3.tensors.tokenizer import clean

    for prompt in request.all_prompts:
        if prompt.text is not None:
            clean(prompt.text)


def _require_capable(store: StoreLayout, name: str, can: Capabilities, request: PredictRequest) -> None:
    """Refuse what these weights cannot take; names registered weights that could.

    Raises:
        UnsupportedPromptError: If a head is missing.
    """
    prompts, mode = request.all_prompts, request.settings.mode
    clicked = [prompt for prompt in prompts if is_interactive(prompt, mode)]
    needs = {
        "interactive": bool(clicked),
        "text": any(prompt.text is not None and prompt not in clicked for prompt in prompts),
    }
    merge = request.settings.merge
    if merge.is_of_the_semantic_mask and (clicked or not can.text):
        msg = f"merge={merge}: {name} draws no semantic mask for these prompts; use merge=union or merge=best"
        raise UnsupportedPromptError(msg)
    for need, wanted in needs.items():
        if not wanted or getattr(can, need):
            continue
        able = [f"{item.name}@{item.version}" for item in registered_weights(store) if getattr(item.capabilities, need)]
        does = f"registered weights that have one: {', '.join(able)}" if able else _none_registered(need)
        msg = f"{name} has no {_HEADS[need]}; {does}"
        raise UnsupportedPromptError(msg)


def _none_registered(need: str) -> str:
    tensors = "the released sam3.pt" if need == "interactive" else "SAM3 weights"
    return f"no registered weights have one, add {tensors} with: medsam3 weights add sam3 PATH"


def _report(record: PredictRecord, image: InputImage, settings: InferenceSettings) -> None:
    where = f" on {record.slices} of {image.depth} slices" if image.depth > 1 else ""
    counted = f"{len(record.found)} instance{'' if len(record.found) == 1 else 's'}{where}"
    say(f"{counted} in {record.seconds:.1f} s on {record.device}, window {_window(image, settings)}")
    for number, (name, score) in enumerate(record.found[:_MOST_LISTED], start=1):
        say(f"  {number}  {_short(name)}  {score:.3f}")
    if len(record.found) > _MOST_LISTED:
        say(f"  and {len(record.found) - _MOST_LISTED} more")
    for note in record.notes:
        say(f"note: {note}")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."


def _window(image: InputImage, settings: InferenceSettings) -> str:
    return image.window if settings.window == "recipe" else settings.window
