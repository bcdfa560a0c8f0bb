"""Options of `medsam3 predict`, as its bodies take them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """An image, what is asked of it, and where the answer goes.

    Attributes:
        image: The image.
        weights: Name, `NAME@N`, path or `hf://` location.
        texts: Texts, each a prompt of its own.
        boxes: Boxes `x0,y0,x1,y1[,-]`.
        points: Points `x,y[,+|-]`.
        masks: Files with drawn masks.
        prompts: A prompts file, instead of texts, boxes, points and masks.
        prompt: Policy: `text`, or the agent's.
        replay: A trace of the agent to answer from.
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
    prompt: str
    replay: Path | None
    slice: int | None
    alone: bool
    threshold: float | None
    settings: tuple[str, ...]
    out: Path
