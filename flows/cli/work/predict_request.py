"""Options of `medsam3 predict`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """Image, prompts, settings and output; the names are those of the command's parameters.

    Attributes:
        image: Input image.
        weights: Name, `NAME@N`, path or `hf://` location.
        texts: Text prompts.
        boxes: Boxes `x0,y0,x1,y1[,-]`.
        points: Points `x,y[,+|-]`.
        masks: Files with mask prompts.
        prompts: Prompts file, instead of texts, boxes, points and masks.
        prompt: Prompt policy: `text`, or the agent's.
        replay: Trace of the agent to replay.
        slice: Slice of a volume; None if there is only one, or a text prompts all.
        alone: True to segment only that slice.
        threshold: Score above which instances are kept; None to use the settings.
        settings: Inference settings as `key=value`.
        out: Output file.
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
