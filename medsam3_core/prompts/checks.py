"""What a prompt must be before any network sees it: inside its slice, and of a kind that the weights take."""

from itertools import chain

from medsam3_core.errors import UnsupportedPromptError, UsageError
from medsam3_core.prompts.prompts import BoxPrompt, MaskPrompt, PointPrompt, SlicePrompt
from medsam3_core.settings.inference import PromptMode


def is_interactive(prompt: SlicePrompt, mode: PromptMode) -> bool:
    """Whether the interactive head answers: always for points and masks, for boxes if the settings say so."""
    return bool(prompt.kinds & {"points", "mask"}) or mode is PromptMode.INTERACTIVE


def require_answerable(prompt: SlicePrompt, mode: PromptMode, *, interactive: bool, source: str) -> None:
    """Refuse a prompt that some weights cannot take.

    Args:
        prompt: The prompt.
        mode: Which head answers boxes.
        interactive: The weights have an interactive head.
        source: The weights, as an error names them.

    Raises:
        UnsupportedPromptError: If there is no interactive head, or text is meant for it.
        UsageError: If there are counter-examples alone.
    """
    if not is_interactive(prompt, mode):
        if prompt.text is None and not any(box.positive for box in prompt.boxes):
            msg = f"prompt for {prompt.structure!r} has negative boxes alone; add a positive box or a text"
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
            "leave out the points and masks, or ask with mode=concept"
        )
        raise UnsupportedPromptError(msg)


def require_inside(prompt: SlicePrompt, shape_yx: tuple[int, int]) -> None:
    """Refuse a prompt that leaves its slice.

    Raises:
        UsageError: Names the box, point or mask and the slice.
    """
    shown: tuple[BoxPrompt | PointPrompt, ...] = (*prompt.boxes, *chain(*prompt.points))
    for one in shown:
        one.require_inside(shape_yx)
    for mask in prompt.masks:
        _require_mask(mask, shape_yx)


def _require_mask(prompt: MaskPrompt, shape_yx: tuple[int, int]) -> None:
    if prompt.mask.shape != shape_yx:
        msg = f"mask prompt has shape {prompt.mask.shape}, the slice {shape_yx}; draw the mask on this slice"
        raise UsageError(msg)
    if not prompt.mask.any():
        msg = "mask prompt is empty; mark at least one pixel"
        raise UsageError(msg)
