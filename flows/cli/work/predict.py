"""`medsam3 predict`: segment one image in this process, without Prefect and Dask."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flows.cli.work.agent import is_agent, predict_by_request
from flows.cli.work.predict_request import PredictOptions
from flows.messages.console import say
from medsam3_core.capabilities import Capabilities
from medsam3_core.errors import UnsupportedPromptError, UsageError
from medsam3_core.inference.protocol import Segmenter
from medsam3_core.prompts.checks import is_interactive
from medsam3_core.prompts.prompts import SlicePrompt
from medsam3_core.prompts.words import assemble_prompts, parse_box, parse_point
from medsam3_core.settings.inference import InferenceSettings, PromptMode
from storage.exports.registry import format_of_file, volume_suffixes
from storage.prompts.files import prompts_of_image
from storage.prompts.masks import read_mask_prompts
from storage.sources.formats.single import InputImage, read_input_image
from storage.store.layout import StoreLayout
from storage.weights.registry import (
    default_device,
    find_weights,
    is_location,
    load_segmenter,
    load_unregistered,
    registered_weights,
)
from tasks.predict.image import PredictRecord, PredictRequest, check_request, predict_image, predict_volume

_MAX_LISTED = 20
_MAX_NAME_LENGTH = 80
_HEADS = {
    "interactive": "interactive head, needed for points, masks and mode=interactive",
    "text": "text encoder",
}


def run_predict(root: Path, options: PredictOptions) -> int:
    """Segment the image, write the file and print its path; exit code 0."""
    store = StoreLayout(root)
    if is_agent(options.prompt) or options.replay is not None:
        predict_by_request(store, options)
    else:
        _predict(store, options)
    print(options.out)  # noqa: T201 - the answer
    return 0


def _predict(store: StoreLayout, options: PredictOptions) -> None:
    settings = _settings(options)
    form = format_of_file(options.out)
    image = read_input_image(options.image)
    volume = form.holds_volumes and image.depth > 1
    asked = _asked(options, image, settings, volume=volume)
    caption = f"{options.weights}   {_said(options)}   {settings.canonical()}"
    request = PredictRequest(asked, volume and not options.alone and _are_keys(asked), settings, options.out, caption)
    check_request(image, request)
    segmenter = _load(store, options.weights, request)
    can = segmenter.capabilities
    followed = request.followed and can.follows
    if volume:
        say(_describe_slices(options, request, image.depth, can, followed=followed))
    answer = predict_volume if followed or len(asked) > 1 else predict_image
    record = answer(image, replace(request, followed=followed), segmenter)
    _report(record, image, settings)


def _asked(
    options: PredictOptions, image: InputImage, settings: InferenceSettings, *, volume: bool
) -> Mapping[int, Sequence[SlicePrompt]]:
    """Prompts by slice: options apply to one slice, a text without --slice to all slices of a volume."""
    if options.prompts is not None:
        return _asked_by_file(options, options.prompts, image, settings, volume=volume)
    boxes, points = [parse_box(text) for text in options.boxes], [parse_point(text) for text in options.points]
    everywhere = volume and options.slice is None and bool(options.texts) and not (boxes or points or options.masks)
    slices = range(image.depth) if everywhere else (image.require_slice(options.slice),)
    masks = [mask for path in options.masks for mask in read_mask_prompts(path, slices[0])]
    prompts = assemble_prompts(options.texts, boxes, points, settings.mode, masks)
    return dict.fromkeys(slices, prompts)


def _asked_by_file(
    options: PredictOptions, file: Path, image: InputImage, settings: InferenceSettings, *, volume: bool
) -> Mapping[int, Sequence[SlicePrompt]]:
    if options.texts or options.boxes or options.points or options.masks:
        msg = "--prompts FILE replaces --text, --box, --point and --mask; omit them"
        raise UsageError(msg)
    asked = prompts_of_image(file, image.path, image.geometry, settings.mode)
    if options.slice is not None:
        z = image.require_slice(options.slice)
        if z not in asked:
            msg = f"{file} has no prompts on slice {z}; it has prompts on: {', '.join(map(str, sorted(asked)))}"
            raise UsageError(msg)
        return {z: asked[z]}
    if len(asked) > 1 and not volume:
        msg = (
            f"{file} has prompts on {len(asked)} slices, but {options.out.name} holds one; choose it with --slice, or "
            f"write a label map ({volume_suffixes()})"
        )
        raise UsageError(msg)
    return asked


def _are_keys(asked: Mapping[int, Sequence[SlicePrompt]]) -> bool:
    """True if every structure is prompted on one slice only."""
    names = [prompt.structure for prompts in asked.values() for prompt in prompts]
    return len(names) == len(set(names))


def _describe_slices(
    options: PredictOptions, request: PredictRequest, depth: int, can: Capabilities, *, followed: bool
) -> str:
    """Sentence about the segmented slices of a volume, printed before the work starts."""
    slices = sorted(request.prompts)
    where = f"slice{'s' if len(slices) > 1 else ''} {', '.join(map(str, slices))}"
    if len(slices) == depth:
        return f"prompting all {depth} slices; objects are linked by overlap"
    if followed and can.propagation:
        return f"prompting {where}; the tracker follows the objects through all {depth} slices"
    if followed:
        return (
            f"prompting {where}; {options.weights} has no tracker, so objects are detected on each of {depth} slices "
            "and linked by overlap"
        )
    why = f"{options.weights} has neither a tracker nor a detector"
    if options.alone:
        why = "--slice-only is set"
    elif not request.followed:
        why = "a structure with prompts on several slices is not followed"
    return f"segmenting only {where}, the other slices stay 0: {why}"


def _settings(options: PredictOptions) -> InferenceSettings:
    given = [] if options.threshold is None else [f"threshold={options.threshold}"]
    settings = InferenceSettings.parse([*options.settings, *given])
    return replace(settings, mode=PromptMode.INTERACTIVE) if options.points or options.masks else settings


def _said(options: PredictOptions) -> str:
    if options.prompts is not None:
        return options.prompts.name
    clicked = [*options.points, *(f"mask {path.name}" for path in options.masks)]
    return "; ".join([*map(repr, options.texts), *(f"box {one}" for one in options.boxes), *clicked])


def _load(store: StoreLayout, name: str, request: PredictRequest) -> Segmenter:
    """Load the segmenter; incapable registered weights are refused before loading."""
    if not is_location(store, name):
        found = find_weights(store, name)
        _require_capable(store, name, found.capabilities, request)
        if found.path is not None:
            _check_texts(request)
        return load_segmenter(found, "cpu" if found.path is None else default_device())
    _check_texts(request)
    segmenter = load_unregistered(store, name, default_device())
    _require_capable(store, name, segmenter.capabilities, request)
    return segmenter


def _check_texts(request: PredictRequest) -> None:
    """Refuse empty texts and special tokens before a checkpoint is read."""
    from medsam3_core.sam3.tensors.tokenizer import clean

    for prompt in request.all_prompts:
        if prompt.text is not None:
            clean(prompt.text)


def _require_capable(store: StoreLayout, name: str, can: Capabilities, request: PredictRequest) -> None:
    """Refuse prompts that these weights do not support; names registered weights that do.

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
    if merge.uses_semantic_mask and (clicked or not can.text):
        msg = f"merge={merge}: {name} has no semantic mask for these prompts; use merge=union or merge=best"
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
    return f"no registered weights have one; add {tensors} with: medsam3 weights add sam3 PATH"


def _report(record: PredictRecord, image: InputImage, settings: InferenceSettings) -> None:
    where = f" on {record.slices} of {image.depth} slices" if image.depth > 1 else ""
    window = image.window if settings.window == "recipe" else settings.window
    counted = f"{len(record.found)} instance{'' if len(record.found) == 1 else 's'}{where}"
    say(f"{counted} in {record.seconds:.1f} s on {record.device}, window {window}")
    for number, (name, score) in enumerate(record.found[:_MAX_LISTED], start=1):
        say(f"  {number}  {_short(name)}  {score:.3f}")
    if len(record.found) > _MAX_LISTED:
        say(f"  and {len(record.found) - _MAX_LISTED} more")
    for note in record.notes:
        say(f"note: {note}")


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME_LENGTH else f"{name[: _MAX_NAME_LENGTH - 3]}..."
