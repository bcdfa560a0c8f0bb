"""Simulated user prompts: points, boxes and drawn masks for objects of a slice, as inference gets them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsam3_core.errors import UsageError
from medsam3_core.training.data.samples import InteractivePrompt, TrainingSlice

Mask = NDArray[np.bool_]
Point = tuple[float, float]
CORNERS = (2, 3)
"""Labels of the upper left and lower right corner of a box; 1 and 0 are clicks inside and outside."""

_GROWTH = 0.25
"""Points outside come from the object's box enlarged by this share, as in prompt policies."""
_MAX_PIXEL_SIZE = 4.0
"""Maximum size of a slice pixel on the model's square; a click is at its upper left corner."""


@dataclass(frozen=True, slots=True)
class PromptMix:
    """Shares of the kinds of prompts; they need not sum to 1.

    Attributes:
        centre: One point, farthest from the edge.
        clicks: One to four random points inside, up to three outside.
        box: The bounding box with shifted edges.
        box_and_clicks: A box with points.
        mask: A rough drawing of the mask.
        jitter: Maximum shift of an edge of a box, as a share of its side.
    """

    centre: float = 0.35
    clicks: float = 0.15
    box: float = 0.3
    box_and_clicks: float = 0.05
    mask: float = 0.15
    jitter: float = 0.12

    def __post_init__(self) -> None:
        if min(getattr(self, field.name) for field in fields(self)) < 0 or not sum(self.shares):
            msg = f"shares and jitter of a prompt mix must be at least 0, and not all shares 0; got {self}"
            raise UsageError(msg)

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of centre, clicks, box, box and clicks, mask."""
        return (self.centre, self.clicks, self.box, self.box_and_clicks, self.mask)


def draw_interactive_prompts(
    seen: TrainingSlice, slice_index: int, count: int, rng: np.random.Generator, mix: PromptMix | None = None
) -> list[InteractivePrompt]:
    """Up to `count` prompts for different objects of one slice; none for an empty slice.

    An object is an instance of a countable concept, else the whole concept. Concepts take turns, so that many nuclei do
    not displace the one organ beside them. `slice_index` is the position of the slice in the batch.
    """
    mix = PromptMix() if mix is None else mix
    return [_prompt(mask, slice_index, mix, rng) for mask in objects_of(seen, count, rng)]


def objects_of(seen: TrainingSlice, count: int, rng: np.random.Generator) -> list[Mask]:
    """Masks of up to `count` different objects of a slice, concept by concept in random order."""
    waiting = []
    for index in rng.permutation(len(seen.concepts)):
        concept = seen.concepts[index]
        if concept.present:
            numbers = np.flatnonzero(np.bincount(concept.labels.ravel())[1:]) + 1 if concept.countable else np.zeros(1)
            waiting.append((concept.labels, rng.permutation(numbers).astype(int).tolist()))
    masks: list[Mask] = []
    while waiting and len(masks) < count:
        labels, numbers = waiting.pop(0)
        number = numbers.pop()
        masks.append(labels == number if number else labels > 0)
        if numbers:
            waiting.append((labels, numbers))
    return masks


def centre_of(mask: Mask) -> Point:
    """The pixel (x, y) of a mask farthest from its edge, a natural place to click."""
    rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
    padded = np.pad(mask[rows, columns], 1)
    y, x = divmod(int(ndimage.distance_transform_edt(padded).argmax()), padded.shape[1])
    return float(x - 1 + columns.start), float(y - 1 + rows.start)


def box_points(mask: Mask, jitter: float, rng: np.random.Generator) -> list[Point]:
    """Corners of the half-open bounding box, each edge shifted by up to `jitter` of its side; at least 1 pixel wide."""
    rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
    corners = []
    for extent, size in ((columns, mask.shape[1]), (rows, mask.shape[0])):
        moves = rng.uniform(-jitter, jitter, 2) * (extent.stop - extent.start)
        low, high = np.clip((extent.start + moves[0], extent.stop + moves[1]), 0, size)
        corners.append((float(low), float(max(high, low + 1))))
    (x0, x1), (y0, y1) = corners
    return [(x0, y0), (x1, y1)]


def rough_mask(mask: Mask, rng: np.random.Generator) -> Mask:
    """A rough drawing of the mask: dilated, eroded, shifted or blurred; never empty."""
    way = int(rng.integers(4))
    reach = int(rng.integers(1, 4))
    if way == 0:
        drawn = ndimage.binary_dilation(mask, iterations=reach)
    elif way == 1:
        drawn = ndimage.binary_erosion(mask, iterations=reach)
    elif way == 2:
        drawn = np.roll(mask, rng.integers(-reach, reach + 1, 2), axis=(0, 1))
    else:
        blurred = ndimage.uniform_filter(mask.astype(np.float32), size=4 * reach + 1)
        drawn = blurred > rng.uniform(0.3, 0.6)
    return drawn if drawn.any() else mask


def _prompt(mask: Mask, slice_index: int, mix: PromptMix, rng: np.random.Generator) -> InteractivePrompt:
    shares = np.asarray(mix.shares)
    way = int(rng.choice(len(shares), p=shares / shares.sum()))
    if way == 4:
        return InteractivePrompt(slice_index, mask, mask_input=rough_mask(mask, rng))
    points: list[Point] = []
    labels: list[int] = []
    if way in (2, 3):
        points, labels = box_points(mask, rng.uniform(0, mix.jitter), rng), [*CORNERS]
    if way == 0:
        points, labels = _shifted([centre_of(mask)], rng), [1]
    if way in (1, 3):
        inside = random_pixels(mask, int(rng.integers(1, 5)), rng)
        outside = random_pixels(_surroundings(mask), int(rng.integers(0, 4)), rng)
        points = [*points, *_shifted([*inside, *outside], rng)]
        labels = [*labels, *([1] * len(inside)), *([0] * len(outside))]
    return with_points(InteractivePrompt(slice_index, mask), points, labels)


def with_points(prompt: InteractivePrompt, points: Sequence[Point], labels: Sequence[int]) -> InteractivePrompt:
    """Copy of a prompt with these points."""
    xy = np.asarray(points, dtype=np.float32).reshape(-1, 2)
    return InteractivePrompt(prompt.slice_index, prompt.mask, xy, np.asarray(labels, dtype=np.int64), prompt.mask_input)


def _surroundings(mask: Mask) -> Mask:
    """Pixels outside the object in its box enlarged by 25 %."""
    rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
    window = tuple(
        slice(max(0, extent.start - grown), extent.stop + grown)
        for extent in (rows, columns)
        for grown in [max(1, round(_GROWTH * (extent.stop - extent.start)))]
    )
    around = np.zeros_like(mask)
    around[window] = True
    return around & ~mask


def random_pixels(mask: Mask, count: int, rng: np.random.Generator) -> list[Point]:
    """Up to `count` different pixels (x, y) of a mask."""
    pixels = np.flatnonzero(mask)
    chosen = rng.choice(pixels, min(count, len(pixels)), replace=False)
    return [(float(pixel % mask.shape[1]), float(pixel // mask.shape[1])) for pixel in chosen]


def _shifted(points: Sequence[Point], rng: np.random.Generator) -> list[Point]:
    """Shift clicks up and left by up to a slice pixel, as resizing does."""
    shift = rng.uniform(0, rng.uniform(0, _MAX_PIXEL_SIZE), (len(points), 2))
    return [(max(0.0, x - dx), max(0.0, y - dy)) for (x, y), (dx, dy) in zip(points, shift.tolist(), strict=True)]
