"""Prompts as a person types them: boxes `x0,y0,x1,y1[,-]`, points `x,y[,+|-]`, texts; and what they ask together."""

import math
from collections.abc import Sequence

from medsam3_core.errors import UsageError
from medsam3_core.inference_settings import PromptMode
from medsam3_core.prompts import BoxPrompt, PointPrompt, SlicePrompt

NAMELESS = "object"
"""Structure of a prompt that has no text."""

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
    texts: Sequence[str], boxes: Sequence[BoxPrompt], points: Sequence[PointPrompt], mode: PromptMode
) -> list[SlicePrompt]:
    """The prompts that texts, boxes and points ask together.

    Each text is a prompt of its own; boxes beside one text, or alone, are exemplars of one concept. Points are one
    object, together with the box if there is one. In interactive mode each box is an object.

    Raises:
        UsageError: If nothing is asked, or it is not clear what belongs together.
    """
    words = list(dict.fromkeys(texts))
    if not (words or boxes or points):
        msg = "nothing is asked; give at least one --text, --box or --point"
        raise UsageError(msg)
    if len(words) > 1 and (boxes or points):
        msg = f"{len(words)} texts with boxes or points: unclear which belong together; give one --text, or ask twice"
        raise UsageError(msg)
    if points and len(boxes) > 1:
        msg = f"{len(boxes)} boxes with points: all points are one object; give at most one --box with them"
        raise UsageError(msg)
    if mode is PromptMode.INTERACTIVE and words:
        msg = "points and mode=interactive do not go with a text, which the interactive head does not read; ask twice"
        raise UsageError(msg)
    shown = (tuple(points),) if points else ()
    names: list[str | None] = [*words] or [None]
    return [
        SlicePrompt(text or NAMELESS, text=text, boxes=tuple(boxes), points=shown, per_instance=bool(boxes or points))
        for text in names
    ]


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
