"""Prompts files written by users: read tolerantly, checked strictly, refused with row, value and remedy."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import UsageError
from medsam3_core.prompts.rows import WHOLE_STRUCTURE, PromptRow, RowKind, box_of, mask_of, point_of
from medsam3_core.settings.inference import PromptMode

COLUMNS = tuple(field.name for field in fields(PromptRow))
"""Columns of a prompts file."""

_BOX = ("x0", "y0", "x1", "y1")
_OF_KIND: Mapping[RowKind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    RowKind.TEXT: (("text",), ()),
    RowKind.BOX: (_BOX, ("label",)),
    RowKind.POINTS: (("x", "y"), ("label",)),
    RowKind.MASK: (("mask_rle",), ()),
}
"""Required and optional columns of each kind."""
_ALWAYS = ("case_id", "slice", "structure", "instance", "kind")


def prompt_row(values: Mapping[str, Any], number: int, defaults: Mapping[str, Any] | None = None) -> PromptRow:
    """Read one row of a table; empty strings, None and NaN count as absent, `instance` defaults to 0.

    Args:
        values: Column to cell, texts or numbers; `mask_rle` is a sequence, or integers separated by spaces.
        number: Row number for messages, from 1.
        defaults: Values of columns that a row leaves empty.

    Raises:
        UsageError: If a column is unknown, missing for the kind or filled although the kind does not read it, a kind
            is unknown, a value is not a number, or a box is inverted.
    """
    given = {**(defaults or {}), **{column: value for column, value in values.items() if not _is_absent(value)}}
    if unknown := [column for column in values if column not in COLUMNS]:
        raise _refusal(number, f"unknown column {unknown[0]!r}; the columns are: {', '.join(COLUMNS)}")
    kind = _kind(given, number)
    _require_columns(given, kind, number)
    row = PromptRow(
        case_id=str(given["case_id"]),
        slice=_whole(given, "slice", number),
        structure=str(given["structure"]),
        instance=_whole(given, "instance", number) if "instance" in given else WHOLE_STRUCTURE,
        kind=kind,
        text=str(given["text"]) if "text" in given else None,
        label=_whole(given, "label", number) if "label" in given else None,
        mask_rle=_runs(given["mask_rle"], number) if "mask_rle" in given else None,
        **{column: _number(given, column, number) for column in (*_BOX, "x", "y") if column in given},
    )
    _require_values(row, number)
    return row


def validate_rows(rows: Iterable[PromptRow], geometry: VolumeGeometry, *, first_number: int = 1) -> None:
    """Refuse rows that do not fit their volume.

    Args:
        rows: Rows of one case.
        geometry: Geometry of its volume; a box may reach from 0 to the size of the slice, a point lies on a pixel.
        first_number: Row number of the first row, for messages.

    Raises:
        UsageError: If a slice does not exist, a box or point lies outside the slice, or a mask has another size.
    """
    depth, *shape_yx = geometry.shape_zyx
    for number, row in enumerate(rows, first_number):
        if not 0 <= row.slice < depth:
            last = depth - 1
            raise _refusal(number, f"slice={row.slice} does not exist in case {row.case_id!r}; give 0..{last}")
        with _as_refusal(number):
            if row.kind is RowKind.BOX:
                box_of(row).require_inside(tuple(shape_yx))
            if row.kind is RowKind.POINTS:
                point_of(row).require_inside(tuple(shape_yx))
            if row.kind is RowKind.MASK:
                mask_of(row, (shape_yx[0], shape_yx[1]))


def objects_apart(rows: Sequence[PromptRow], mode: PromptMode) -> list[PromptRow]:
    """Rows with a separate structure name for every object that the interactive head draws.

    Rows of one instance that hold points or a mask, with `mode=interactive` also a box, become the structure
    `NAME INSTANCE`, so that its mask stays separate. Examples of a concept stay together.
    """
    clicked = {RowKind.POINTS, RowKind.MASK, *([RowKind.BOX] if mode is PromptMode.INTERACTIVE else [])}
    objects = {_object(row) for row in rows if row.kind in clicked and row.instance != WHOLE_STRUCTURE}
    return [
        replace(row, structure=f"{row.structure} {row.instance}") if _object(row) in objects else row for row in rows
    ]


def _object(row: PromptRow) -> tuple[int, str, int]:
    return row.slice, row.structure, row.instance


def _kind(given: Mapping[str, Any], number: int) -> RowKind:
    kind = str(given.get("kind", ""))
    if kind not in _OF_KIND:
        raise _refusal(number, f"unknown kind {kind!r}; the kinds are: {', '.join(_OF_KIND)}")
    return RowKind(kind)


def _require_columns(given: Mapping[str, Any], kind: RowKind, number: int) -> None:
    required, optional = _OF_KIND[kind]
    needed = ("case_id", "slice", "structure", *required)
    if missing := [column for column in needed if column not in given]:
        raise _refusal(number, f"{missing[0]} is missing; a row of kind {kind} needs: {', '.join(needed)}")
    known = (*_ALWAYS, *required, *optional)
    if extra := [column for column in given if column not in known]:
        value = given[extra[0]]
        raise _refusal(number, f"{extra[0]}={value!r} is not read by kind {kind}; leave it empty or change the kind")


def _require_values(row: PromptRow, number: int) -> None:
    if row.instance < 0:
        raise _refusal(number, f"instance={row.instance} is negative; give 0 for the structure as a whole, or 1..n")
    if row.label not in (None, 0, 1):
        raise _refusal(number, f"label={row.label} is neither 1 (positive) nor 0 (negative)")
    if row.kind is RowKind.BOX:
        with _as_refusal(number):
            box_of(row)


def _is_absent(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(given: Mapping[str, Any], column: str, number: int) -> float:
    try:
        value = float(given[column])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise _refusal(number, f"{column}={given[column]!r} is not a finite number")
    return value


def _whole(given: Mapping[str, Any], column: str, number: int) -> int:
    value = _number(given, column, number)
    if not value.is_integer():
        raise _refusal(number, f"{column}={given[column]!r} is not a whole number")
    return int(value)


def _runs(value: Any, number: int) -> tuple[int, ...]:
    try:
        return tuple(int(run) for run in (value.split() if isinstance(value, str) else value))
    except (TypeError, ValueError):
        raise _refusal(number, f"mask_rle={value!r} is not a list of whole numbers") from None


def _refusal(number: int, reason: str) -> UsageError:
    return UsageError(f"row {number} of the prompts: {reason}")


@contextmanager
def _as_refusal(number: int) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise _refusal(number, str(error)) from None
