"""PNG of one slice with every instance in its own colour and number, and the prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.inference.protocol import SliceInstances
from medsam3_core.prompts.prompts import SlicePrompt
from storage.exports.overlays import COLOURS, GREY, WHITE, Colour, Rgb, SliceView, draw_page, font_of, paint, view_of
from storage.sources.formats.single import InputImage

_SIDE = 1400
_RED = (255, 77, 77)
_MAX_LISTED = 12
_RADIUS = 7
_NUMBER = 22
"""Space of a number in the picture, in pixels."""


@dataclass(frozen=True, eq=False)
class PromptedInstances:
    """Instances predicted for one prompt."""

    prompt: SlicePrompt
    instances: SliceInstances


@dataclass(frozen=True, eq=False)
class DrawnSlice:
    """One slice to write.

    Attributes:
        answers: Prompts with their instances, at least one.
        caption: Second line above a picture.
        window: Intensity policy of a picture; `recipe` is the image's own.
    """

    image: InputImage
    z: int
    answers: Sequence[PromptedInstances]
    caption: str
    window: str

    @property
    def instances(self) -> SliceInstances:
        """All instances of all prompts, in the order of the prompts."""
        parts = [SliceInstances.nothing(self.image.shape_yx), *(answer.instances for answer in self.answers)]
        return SliceInstances(
            np.concatenate([part.masks for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.boxes_xyxy for part in parts]),
        )


def draw_instances(
    rgb: Rgb, geometry: VolumeGeometry, answers: Sequence[PromptedInstances], title: str, subtitle: str
) -> Image.Image:
    """One picture of a slice: instances filled lightly, outlined and numbered as in the other outputs.

    Boxes are white (counter-examples red); points are white rings (inside) and red crosses (outside). `rgb` is the
    slice as the segmenter saw it, shape (y, x, 3). It is flipped for display as `geometry` asks.
    """
    view = view_of(geometry, _SIDE)
    masks = [mask for answer in answers for mask in answer.instances.masks]
    painted = view.tile(rgb)
    for index, mask in enumerate(masks):
        paint(painted, view.labels(mask), COLOURS[index % len(COLOURS)])
    tile = Image.fromarray(painted.astype(np.uint8))
    pen = ImageDraw.Draw(tile)
    taken: list[tuple[float, float]] = []
    for number, mask in enumerate(masks, start=1):
        if mask.any():
            taken.append(_beside(_centre(view.turned(mask), view), taken))
            pen.text(taken[-1], str(number), WHITE, font_of(16), "mm", stroke_width=2, stroke_fill=(0, 0, 0))
    for answer in answers:
        _draw_prompt(pen, answer.prompt, rgb.shape[:2], view)
    return draw_page([tile], 1, [[(0, *entry)] for entry in _legend(answers)], (title, subtitle), gap=0)


def _centre(mask: NDArray[np.generic], view: SliceView) -> tuple[float, float]:
    """Screen position of the mask pixel nearest to the mask's mean."""
    y, x = np.nonzero(mask)
    nearest = int(np.argmin((y - y.mean()) ** 2 + (x - x.mean()) ** 2))
    height, width = mask.shape
    return (float(x[nearest]) + 0.5) * view.size[0] / width, (float(y[nearest]) + 0.5) * view.size[1] / height


def _beside(wanted: tuple[float, float], taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The position itself, or the first free one to its right."""
    x, y = wanted
    for other_x, other_y in sorted(taken):
        if abs(x - other_x) < _NUMBER and abs(y - other_y) < _NUMBER:
            x = other_x + _NUMBER
    return x, y


def _draw_prompt(pen: ImageDraw.ImageDraw, prompt: SlicePrompt, shape_yx: tuple[int, ...], view: SliceView) -> None:
    def on_screen(x: float, y: float) -> tuple[float, float]:
        height, width = shape_yx
        x, y = width - x if view.flip_columns else x, height - y if view.flip_rows else y
        return x * view.size[0] / width, y * view.size[1] / height

    for box in prompt.boxes:
        xs, ys = zip(on_screen(box.x0, box.y0), on_screen(box.x1, box.y1), strict=True)
        pen.rectangle((min(xs), min(ys), max(xs), max(ys)), outline=WHITE if box.positive else _RED, width=2)
    for point in (point for points in prompt.points for point in points):
        x, y = on_screen(point.x + 0.5, point.y + 0.5)
        if point.positive:
            pen.ellipse((x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS), outline=WHITE, width=3)
        else:
            pen.line((x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS), fill=_RED, width=3)
            pen.line((x - _RADIUS, y + _RADIUS, x + _RADIUS, y - _RADIUS), fill=_RED, width=3)


def _legend(answers: Sequence[PromptedInstances]) -> list[tuple[Colour, str]]:
    named = [(answer.prompt.structure, score) for answer in answers for score in answer.instances.scores]
    if not named:
        return [(GREY, "nothing found above the threshold")]
    entries: list[tuple[Colour, str]] = [
        (COLOURS[index % len(COLOURS)], f"{index + 1}  {structure}  {score:.3f}")
        for index, (structure, score) in enumerate(named[:_MAX_LISTED])
    ]
    return entries if len(named) <= _MAX_LISTED else [*entries, (GREY, f"and {len(named) - _MAX_LISTED} more")]
