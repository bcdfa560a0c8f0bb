"""Prompts for one structure on one slice.

Pixel convention: x counts columns, y counts rows of the stored slice. Boxes are half-open, `[start, stop)`: the pixel
`stop` is one past the end. A point lies on the pixel it names.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.errors import UsageError


@dataclass(frozen=True, slots=True)
class BoxPrompt:
    """Half-open pixel box on a slice, at least one pixel wide and high; `positive` False marks a counter-example."""

    x0: float
    y0: float
    x1: float
    y1: float
    positive: bool = True

    def __post_init__(self) -> None:
        if not (self.x0 < self.x1 and self.y0 < self.y1):
            msg = f"box {self.x0:g},{self.y0:g},{self.x1:g},{self.y1:g} is empty or inverted; give x0<x1 and y0<y1"
            raise UsageError(msg)

    @classmethod
    def around(cls, mask: NDArray[np.bool_]) -> "BoxPrompt":
        """Bounding box of a mask, shape (y, x), with at least one pixel."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        return cls(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))

    def require_inside(self, shape_yx: tuple[int, ...]) -> None:
        """Refuse a box that lies partly outside its slice.

        Raises:
            UsageError: Names box and slice.
        """
        height, width = shape_yx
        if self.x0 < 0 or self.y0 < 0 or self.x1 > width or self.y1 > height:
            msg = (
                f"box {self.x0:g},{self.y0:g},{self.x1:g},{self.y1:g} leaves the slice of {width} x {height} pixels; "
                f"give x in 0..{width} and y in 0..{height}"
            )
            raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class PointPrompt:
    """A click: the pixel (x, y) is inside the structure (`positive`) or outside."""

    x: float
    y: float
    positive: bool = True

    def require_inside(self, shape_yx: tuple[int, ...]) -> None:
        """Refuse a point that lies outside its slice.

        Raises:
            UsageError: Names point and slice.
        """
        height, width = shape_yx
        if not (0 <= self.x < width and 0 <= self.y < height):
            msg = (
                f"point {self.x:g},{self.y:g} lies outside the slice of {width} x {height} pixels; "
                f"give x in 0..{width - 1} and y in 0..{height - 1}"
            )
            raise UsageError(msg)


@dataclass(frozen=True, eq=False)
class MaskPrompt:
    """A drawn mask, boolean, shape (y, x) of the slice."""

    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SlicePrompt:
    """All prompts for one structure on one slice.

    Attributes:
        structure: Name of the structure; the key of the answer.
        text: Text prompt, or None.
        boxes: Boxes, one per instance or one for the structure.
        points: One tuple of points per instance.
        masks: One mask per instance.
        per_instance: True if boxes, points and masks each mark an instance, else the whole structure.
    """

    structure: str
    text: str | None = None
    boxes: tuple[BoxPrompt, ...] = ()
    points: tuple[tuple[PointPrompt, ...], ...] = ()
    masks: tuple[MaskPrompt, ...] = ()
    per_instance: bool = False

    def __post_init__(self) -> None:
        if self.text is None and not (self.boxes or self.points or self.masks):
            msg = f"prompt for {self.structure!r} is empty; give a text, a box, a point or a mask"
            raise UsageError(msg)
        if self.text is not None and not self.text.strip():
            msg = f"text prompt for {self.structure!r} is empty; name what to look for"
            raise UsageError(msg)

    def objects(self) -> "list[SlicePrompt]":
        """One prompt per object, for a tracker: the i-th box, point set and mask belong together.

        Raises:
            UsageError: If the kinds differ in number.
        """
        given = {len(kind) for kind in (self.boxes, self.points, self.masks) if kind}
        if len(given) != 1:
            counts = f"{len(self.boxes)} boxes, {len(self.points)} point sets and {len(self.masks)} masks"
            msg = f"prompt for {self.structure!r} has {counts}; give as many of each kind as there are objects, or none"
            raise UsageError(msg)
        return [
            SlicePrompt(self.structure, None, self.boxes[i : i + 1], self.points[i : i + 1], self.masks[i : i + 1])
            for i in range(given.pop())
        ]

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of prompt in use: a subset of text, box, points, mask."""
        given: dict[str, Any] = {"text": self.text, "box": self.boxes, "points": self.points, "mask": self.masks}
        return frozenset(kind for kind, value in given.items() if value)


@dataclass(frozen=True, eq=False)
class VolumePrompt:
    """One object of a volume: a prompt of one box, one point set or one mask on slice `z`."""

    prompt: SlicePrompt
    z: int
