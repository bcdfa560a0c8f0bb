"""Checks of a prompt before inference: inside its slice, and of a kind that the weights accept."""

from itertools import chain

from medsam3_core.errors import UnsupportedPromptError, UsageError
from medsam3_core.prompts.prompts import BoxPrompt, PointPrompt, SlicePrompt
from medsam3_core.settings.inference import PromptMode


def is_interactive(prompt: SlicePrompt, mode: PromptMode) -> bool:
    """True if the interactive head answers: always for points and masks, for boxes with `mode=interactive`."""
    return bool(prompt.kinds & {"points", "mask"}) or mode is PromptMode.INTERACTIVE


def require_answerable(prompt: SlicePrompt, mode: PromptMode, *, interactive: bool, source: str) -> None:
    """Refuse a prompt that weights do not accept.

    Args:
        prompt: The prompt.
        mode: Head that answers boxes.
        interactive: True if the weights have an interactive head.
        source: Name of the weights in errors.

    Raises:
        UnsupportedPromptError: If there is no interactive head, or the prompt for it has a text.
        UsageError: If all boxes are negative and there is no text.
    """
    if not is_interactive(prompt, mode):
        if prompt.text is None and not any(box.positive for box in prompt.boxes):
            msg = f"prompt for {prompt.structure!r} has only negative boxes; add a positive box or a text"
            raise UsageError(msg)
        return
    if not interactive:
        msg = (
            f"{source} has no interactive head, which points, masks and mode=interactive need; "
            "use weights with a tracker, such as the released sam3.pt"
        )
        raise UnsupportedPromptError(msg)
    if prompt.text is not None:
        msg = (
            f"prompt for {prompt.structure!r} has a text, which the interactive head does not read; "
            "leave out the points and masks, or set mode=concept"
        )
        raise UnsupportedPromptError(msg)


def require_inside(prompt: SlicePrompt, shape_yx: tuple[int, int]) -> None:
    """Refuse a prompt that lies outside its slice.

    Raises:
        UsageError: Names the box, point or mask and the slice.
    """
    shown: tuple[BoxPrompt | PointPrompt, ...] = (*prompt.boxes, *chain(*prompt.points))
    for one in shown:
        one.require_inside(shape_yx)
    for mask in (one.mask for one in prompt.masks):
        if mask.shape != shape_yx:
            msg = f"mask prompt has shape {mask.shape}, the slice {shape_yx}; draw the mask on this slice"
            raise UsageError(msg)
        if not mask.any():
            msg = "mask prompt is empty; mark at least one pixel"
            raise UsageError(msg)
