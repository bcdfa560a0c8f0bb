"""Prompts typed on the command line: boxes `x0,y0,x1,y1[,-]`, points `x,y[,+|-]`, texts, and their combination."""

import math
from collections.abc import Sequence

from medsam3_core.errors import UsageError
from medsam3_core.prompts.prompts import BoxPrompt, MaskPrompt, PointPrompt, SlicePrompt
from medsam3_core.settings.inference import PromptMode

NAMELESS = "object"
"""Structure of a prompt without a text."""

_SIGNS = {"+": True, "-": False}


def parse_box(text: str) -> BoxPrompt:
    """Read `x0,y0,x1,y1`, half-open pixels; a fifth word `-` marks a counter-example, `+` changes nothing.

    Raises:
        UsageError: If there are not four numbers, or the box is empty or inverted.
    """
    numbers, positive = _numbers_and_sign(text, 4, "box", "x0,y0,x1,y1 (and ,- for a counter-example)")
    x0, y0, x1, y1 = numbers
    return BoxPrompt(x0, y0, x1, y1, positive)


def parse_point(text: str) -> PointPrompt:
    """Read `x,y`; a third word says whether the point lies inside (`+`, the default) or outside (`-`).

    Raises:
        UsageError: If there are not two numbers.
    """
    numbers, positive = _numbers_and_sign(text, 2, "point", "x,y (and ,- for a point outside)")
    x, y = numbers
    return PointPrompt(x, y, positive)


def assemble_prompts(
    texts: Sequence[str],
    boxes: Sequence[BoxPrompt],
    points: Sequence[PointPrompt],
    mode: PromptMode,
    masks: Sequence[MaskPrompt] = (),
) -> list[SlicePrompt]:
    """Prompts made of texts, boxes, points and masks.

    Each text is a separate prompt; boxes beside one text, or alone, are exemplars of one concept. Points are one
    object, together with the box and the mask if there is one. In interactive mode each box, and always each mask, is
    an object.

    Raises:
        UsageError: If no prompt is given, or the combination is ambiguous.
    """
    words = list(dict.fromkeys(texts))
    if not (words or boxes or points or masks):
        msg = "no prompt is given; give at least one --text, --box, --point or --mask"
        raise UsageError(msg)
    if len(words) > 1 and (boxes or points):
        msg = f"{len(words)} texts with boxes or points: unclear which belong together; give one --text, or run twice"
        raise UsageError(msg)
    for name, given in (("box", boxes), ("mask", masks)):
        if points and len(given) > 1:
            msg = (
                f"{len(given)} {name}{'es' if name == 'box' else 's'} with points: all points are one object; "
                f"give at most one --{name} with them"
            )
            raise UsageError(msg)
    if boxes and masks and len(boxes) != len(masks):
        msg = f"{len(boxes)} boxes with {len(masks)} masks: unclear which belong together; give as many of each"
        raise UsageError(msg)
    if words and (mode is PromptMode.INTERACTIVE or masks):
        msg = "points, masks and mode=interactive cannot be combined with a text, which that head ignores; run twice"
        raise UsageError(msg)
    shown = tuple(boxes), (tuple(points),) if points else (), tuple(masks)
    names: list[str | None] = [*words] or [None]
    return [SlicePrompt(text or NAMELESS, text, *shown, per_instance=any(shown)) for text in names]


def _numbers_and_sign(text: str, count: int, kind: str, form: str) -> tuple[list[float], bool]:
    words = [word.strip() for word in text.split(",")]
    positive = True
    if len(words) == count + 1 and words[-1] in _SIGNS:
        positive = _SIGNS[words.pop()]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        msg = f"{kind} {text!r} is not {form}"
        raise UsageError(msg)
    return numbers, positive
