"""Rows of a prompts file, as the store keeps them, and their conversion to the prompts of a slice."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from medsam3_core.errors import UsageError
from medsam3_core.prompts.prompts import BoxPrompt, MaskPrompt, PointPrompt, SlicePrompt

WHOLE_STRUCTURE = 0
"""Value of `instance` for a prompt of the structure as a whole."""


class RowKind(StrEnum):
    """Kinds of rows; `points` is one row per point, rows of one instance belong together.

    `request` is a request to the agent, in words, for the whole volume; its slice is 0.
    """

    REQUEST = "request"
    TEXT = "text"
    BOX = "box"
    POINTS = "points"
    MASK = "mask"


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One row of a prompts file; columns that its kind does not use are None.

    Attributes:
        slice: Index z of the slice.
        instance: Instance from 1; 0 for the structure as a whole.
        text: Text prompt, or request to the agent.
        x0: First column inside the box.
        y0: First row inside the box.
        x1: One past the last column.
        y1: One past the last row.
        x: Column of a point.
        y: Row of a point.
        label: 1 positive, 0 negative, for boxes and points; None counts as positive.
        mask_rle: Run lengths of a mask over the whole slice, row-major, starting with background.
    """

    case_id: str
    slice: int
    structure: str
    instance: int
    kind: RowKind
    text: str | None = None
    x0: float | None = None
    y0: float | None = None
    x1: float | None = None
    y1: float | None = None
    x: float | None = None
    y: float | None = None
    label: int | None = None
    mask_rle: tuple[int, ...] | None = None


def mask_to_runs(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """Run lengths of a mask of shape (y, x), row-major, background first (0 where the first pixel is inside)."""
    flat = mask.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff([0, *changes.tolist(), flat.size]).tolist()
    return (0, *runs) if flat[0] else tuple(runs)


def runs_to_mask(runs: Sequence[int], shape_yx: tuple[int, int]) -> NDArray[np.bool_]:
    """Inverse of `mask_to_runs`.

    Raises:
        UsageError: If a run is negative or the runs do not add up to the pixels of the slice.
    """
    height, width = shape_yx
    if sum(runs) != height * width or min(runs, default=0) < 0:
        msg = (
            f"mask runs cover {sum(runs)} pixels, the slice has {height} x {width} = {height * width}; write the runs "
            "of the whole slice, row-major, starting with background"
        )
        raise UsageError(msg)
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(shape_yx)


def slice_prompts(rows: Iterable[PromptRow], shape_yx: tuple[int, int]) -> dict[int, list[SlicePrompt]]:
    """Prompts of one case by slice: one per structure, in the order in which structures first appear.

    Boxes, points and masks with an instance from 1 mark instances; points of one instance form one set.

    Args:
        rows: Rows of one case, in any order.
        shape_yx: Shape of its slices.

    Raises:
        ValueError: If the rows belong to several cases.
        UsageError: If a structure has two texts on one slice, a row lacks a value, or a mask does not fit the slice.
    """
    grouped: dict[tuple[int, str], list[PromptRow]] = {}
    cases: set[str] = set()
    for row in rows:
        cases.add(row.case_id)
        grouped.setdefault((row.slice, row.structure), []).append(row)
    if len(cases) > 1:
        msg = f"rows of one case are expected, got {sorted(cases)[:3]} and {len(cases)} cases in all"
        raise ValueError(msg)
    prompts: dict[int, list[SlicePrompt]] = {}
    for (z, structure), members in sorted(grouped.items(), key=lambda item: item[0][0]):
        prompts.setdefault(z, []).append(_slice_prompt(structure, members, shape_yx))
    return prompts


def _slice_prompt(structure: str, rows: Sequence[PromptRow], shape_yx: tuple[int, int]) -> SlicePrompt:
    points: dict[int, list[PointPrompt]] = {}
    for row in rows:
        if row.kind is RowKind.POINTS:
            points.setdefault(row.instance, []).append(point_of(row))
    return SlicePrompt(
        structure,
        text=_one_text(rows),
        boxes=tuple(box_of(row) for row in rows if row.kind is RowKind.BOX),
        points=tuple(tuple(one) for one in points.values()),
        masks=tuple(mask_of(row, shape_yx) for row in rows if row.kind is RowKind.MASK),
        per_instance=any(row.instance != WHOLE_STRUCTURE for row in rows if row.kind is not RowKind.TEXT),
    )


def _one_text(rows: Sequence[PromptRow]) -> str | None:
    texts = list(dict.fromkeys(row.text or "" for row in rows if row.kind is RowKind.TEXT))
    if len(texts) > 1:
        first = rows[0]
        msg = (
            f"case {first.case_id!r} slice {first.slice} has {len(texts)} texts for {first.structure!r}: "
            f"{', '.join(map(repr, texts))}; give one, or use two structure names"
        )
        raise UsageError(msg)
    return texts[0] if texts else None


def box_of(row: PromptRow) -> BoxPrompt:
    """The box of a row; `UsageError` if an edge is missing or the box is empty."""
    x0, y0, x1, y1 = (_number(row, column) for column in ("x0", "y0", "x1", "y1"))
    return BoxPrompt(x0, y0, x1, y1, positive=row.label != 0)


def point_of(row: PromptRow) -> PointPrompt:
    """The point of a row; `UsageError` if a coordinate is missing."""
    return PointPrompt(_number(row, "x"), _number(row, "y"), row.label != 0)


def mask_of(row: PromptRow, shape_yx: tuple[int, int]) -> MaskPrompt:
    """The mask of a row; `UsageError` if it does not fit the slice."""
    return MaskPrompt(runs_to_mask(row.mask_rle or (), shape_yx))


def _number(row: PromptRow, column: str) -> float:
    value: float | None = getattr(row, column)
    if value is None:
        msg = f"case {row.case_id!r} slice {row.slice}: a {row.kind} prompt of {row.structure!r} lacks {column}; add it"
        raise UsageError(msg)
    return value
