"""Tables on stdout: fitted to the terminal for people; csv, json or parquet for programs."""

import io
import json
import math
import os
import sys
from collections.abc import Collection, Iterator
from datetime import date, datetime
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

NULL = "NULL"
_DIGITS = 4
_MAX_CELL_WIDTH = 40
_PIPE_WIDTH = 120
_PADDING = 2


class TableFormat(StrEnum):
    """Output format of a table."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


def print_table(table: pa.Table, table_format: str = TableFormat.TABLE) -> None:
    """Write a table to stdout.

    `table` rounds to 4 digits, shows NULL as such and, if the columns do not fit side by side, prints one line per
    column. `csv` has a header, exact numbers and empty fields for NULL (an empty text is ""). `json` is a list of
    objects with exact numbers. `parquet` is binary and keeps the types.

    Args:
        table: Rows to write.
        table_format: A value of `TableFormat`.

    Raises:
        ValueError: If the format is unknown.
    """
    match TableFormat(table_format):
        case TableFormat.TABLE:
            _print_for_people(table, stdout_console())
        case TableFormat.CSV:
            sys.stdout.write(to_csv(table))
        case TableFormat.JSON:
            sys.stdout.write(to_json(table))
        case TableFormat.PARQUET:
            sink = io.BytesIO()
            pq.write_table(table, sink, compression="zstd")
            sys.stdout.buffer.write(sink.getvalue())
    sys.stdout.flush()


def stdout_console() -> Console:
    """Console as wide as the terminal; 120 columns into a pipe or file unless COLUMNS is set."""
    wide = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(file=sys.stdout, width=None if wide else _PIPE_WIDTH, highlight=False, markup=False)


def plain_table(*columns: str, right: Collection[str] = (), fixed: Collection[str] = ()) -> Table:
    """An empty table without a frame; columns in `right` are aligned right, and neither they nor `fixed` wrap."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        no_wrap = name in right or name in fixed
        table.add_column(name, justify="right" if name in right else "left", no_wrap=no_wrap, overflow="fold")
    return table


def to_csv(table: pa.Table) -> str:
    """A header and one line per row; numbers in their shortest exact form."""
    lines = [",".join(_csv_field(name) for name in table.column_names)]
    lines += [",".join(_csv_field(value) for value in row) for row in _rows(table)]
    return "\n".join(lines) + "\n"


def to_json(table: pa.Table) -> str:
    """A list with one object per row and line; times as ISO 8601. Repeated column names are numbered."""
    names = _unique(table.column_names)
    lines = [
        json.dumps(dict(zip(names, map(_json_value, row), strict=True)), ensure_ascii=False) for row in _rows(table)
    ]
    return "[" + ",\n ".join(lines) + "]\n"


def shown(value: Any) -> str:
    """Text of a cell in a table for people."""
    if value is None:
        return NULL
    if isinstance(value, float):
        return f"{value:.{_DIGITS}f}" if abs(value) < 10 else f"{value:.{_DIGITS + 1}g}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return str(value)


def _print_for_people(table: pa.Table, console: Console) -> None:
    cells = [[shown(value) for value in row] for row in _rows(table)]
    widths = [
        max([len(name), *(min(len(row[n]), _MAX_CELL_WIDTH) for row in cells)]) + _PADDING
        for n, name in enumerate(table.column_names)
    ]
    if sum(widths) <= console.width:
        console.print(_side_by_side(table, cells))
    else:
        _print_rows_as_blocks(table.column_names, cells, console)
    console.print(f"({table.num_rows} row{'' if table.num_rows == 1 else 's'})")


def _side_by_side(table: pa.Table, cells: list[list[str]]) -> Table:
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for field in table.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        grid.add_column(Text(field.name), justify="right" if number else "left", overflow="fold")
    for row in cells:
        grid.add_row(*(Text(cell, style="dim" if cell == NULL else "") for cell in row))
    return grid


def _print_rows_as_blocks(names: list[str], cells: list[list[str]], console: Console) -> None:
    """One line per column, for tables wider than the terminal."""
    longest = max(len(name) for name in names)
    for number, row in enumerate(cells, start=1):
        console.print(Text(f"row {number}", style="bold"))
        for name, cell in zip(names, row, strict=True):
            console.print(Text(f"  {name:<{longest}}  {cell}"), soft_wrap=True)


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    columns = [column.to_pylist() for column in table.columns]
    return zip(*columns, strict=True) if columns else iter(())


def _csv_field(value: Any) -> str:
    """RFC 4180: quoted if it holds a comma, quote or line break; NULL is empty, an empty text is ""."""
    if value is None:
        return ""
    plain = _json_value(value)
    text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    needs_quotes = not text or any(char in text for char in ',"\n\r')
    return '"' + text.replace('"', '""') + '"' if needs_quotes else text


def _json_value(value: Any) -> Any:
    """The value in JSON types; infinity and NaN as text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case datetime() | date():
            return value.isoformat()
        case dict():
            return {str(key): _json_value(item) for key, item in value.items()}
        case list() | tuple():
            return [_json_value(item) for item in value]
        case bytes():
            return value.hex()
        case _:
            return str(value)


def _unique(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique
