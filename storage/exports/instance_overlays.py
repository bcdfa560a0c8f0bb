"""PNG of one slice with every instance in its own colour and number, and the prompts that asked for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.inference.protocol import SliceInstances
from medsam3_core.prompts.prompts import SlicePrompt
from storage.exports.overlays import COLOURS, FILL, SliceView, font_of, outline_of, stretched, view_of
from storage.sources.formats.single import InputImage

_SIDE = 1400
_MARGIN, _LINE = 12, 26
_WHITE, _GREY, _RED, _BACKGROUND = (255, 255, 255), (150, 150, 150), (255, 77, 77), (18, 18, 18)
_MOST_LISTED = 12
_RADIUS = 7
_NUMBER = 22
"""Room of a number in the picture, in pixels."""

Rgb = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PromptedInstances:
    """What was drawn for one prompt."""

    prompt: SlicePrompt
    instances: SliceInstances


@dataclass(frozen=True, eq=False)
class DrawnSlice:
    """One slice to write.

    Attributes:
        image: The image.
        z: The slice.
        answers: Prompts with what was drawn for them, at least one.
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

    Boxes are white (counter-examples red), points white rings inside and red crosses outside.

    Args:
        rgb: The slice as the segmenter saw it, shape (y, x, 3).
        geometry: Of its volume; patient axes turn it for the eye.
        answers: Prompts with what was drawn for them.
        title: First line above the picture.
        subtitle: Second line.
    """
    view = view_of(geometry, _SIDE)
    tile = Image.fromarray(_filled(rgb, answers, view))
    pen = ImageDraw.Draw(tile)
    for answer in answers:
        _draw_prompt(pen, answer.prompt, rgb.shape[:2], view)
    return _page(tile, _legend(answers), title, subtitle)


def _filled(rgb: Rgb, answers: Sequence[PromptedInstances], view: SliceView) -> Rgb:
    shown = Image.fromarray(view.turned(rgb)).resize(view.size, Image.Resampling.BICUBIC)
    tile = np.asarray(shown).astype(np.float32)
    for number, mask in enumerate((mask for answer in answers for mask in answer.instances.masks), start=1):
        large = stretched(view.turned(mask.astype(np.uint8)), view.size)
        colour = np.asarray(COLOURS[(number - 1) % len(COLOURS)], dtype=np.float32)
        inside = large > 0
        tile[inside] = (1 - FILL) * tile[inside] + FILL * colour
        tile[outline_of(large)] = colour
    numbered = Image.fromarray(tile.astype(np.uint8))
    pen = ImageDraw.Draw(numbered)
    taken: list[tuple[float, float]] = []
    for number, mask in enumerate((mask for answer in answers for mask in answer.instances.masks), start=1):
        if mask.any():
            place = _beside(_centre(view.turned(mask), view), taken)
            taken.append(place)
            pen.text(place, str(number), _WHITE, font_of(16), "mm", stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(numbered)


def _centre(mask: NDArray[np.generic], view: SliceView) -> tuple[float, float]:
    """The pixel of the mask that is nearest to its mean, on the screen."""
    y, x = np.nonzero(mask)
    nearest = int(np.argmin((y - y.mean()) ** 2 + (x - x.mean()) ** 2))
    height, width = mask.shape
    return (float(x[nearest]) + 0.5) * view.size[0] / width, (float(y[nearest]) + 0.5) * view.size[1] / height


def _beside(wanted: tuple[float, float], taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The place itself, or the first one right of it where no other number stands."""
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
        pen.rectangle((min(xs), min(ys), max(xs), max(ys)), outline=_WHITE if box.positive else _RED, width=2)
    for point in (point for points in prompt.points for point in points):
        x, y = on_screen(point.x + 0.5, point.y + 0.5)
        if point.positive:
            pen.ellipse((x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS), outline=_WHITE, width=3)
        else:
            pen.line((x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS), fill=_RED, width=3)
            pen.line((x - _RADIUS, y + _RADIUS, x + _RADIUS, y - _RADIUS), fill=_RED, width=3)


def _legend(answers: Sequence[PromptedInstances]) -> list[tuple[tuple[int, int, int], str]]:
    entries: list[tuple[tuple[int, int, int], str]] = []
    for answer in answers:
        for score in answer.instances.scores:
            number = len(entries) + 1
            entries.append((COLOURS[(number - 1) % len(COLOURS)], f"{number}  {answer.prompt.structure}  {score:.3f}"))
    if not entries:
        return [(_GREY, "nothing found above the threshold")]
    if len(entries) > _MOST_LISTED:
        return [*entries[:_MOST_LISTED], (_GREY, f"and {len(entries) - _MOST_LISTED} more")]
    return entries


def _page(
    tile: Image.Image, entries: Sequence[tuple[tuple[int, int, int], str]], title: str, subtitle: str
) -> Image.Image:
    width = max(tile.width + 2 * _MARGIN, 760)
    top = _MARGIN + 2 * _LINE
    below = top + tile.height + _MARGIN
    page = Image.new("RGB", (width, below + len(entries) * _LINE + _MARGIN), _BACKGROUND)
    pen = ImageDraw.Draw(page)
    pen.text((_MARGIN, _MARGIN), title, font=font_of(20), fill=_WHITE)
    pen.text((_MARGIN, _MARGIN + _LINE), subtitle, font=font_of(15), fill=_GREY)
    page.paste(tile, ((width - tile.width) // 2, top))
    for row, (colour, words) in enumerate(entries):
        y = below + row * _LINE
        pen.rectangle((_MARGIN, y + 4, _MARGIN + 16, y + 18), fill=colour)
        pen.text((_MARGIN + 24, y), words, font=font_of(17), fill=_WHITE)
    return page
