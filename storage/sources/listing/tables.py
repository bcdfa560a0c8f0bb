"""Splits, patients and pixel sizes from tables beside the data."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from medsam3_core.errors import UsageError
from storage.sources.listing.cases import FoundCase
from storage.sources.listing.files import IMAGE_SUFFIXES, open_source, visible_files, without_suffix
from storage.sources.listing.parameters import FileParameters, ImagePairParameters, KeyedTable

TABLE_SUFFIXES = (".csv", ".tsv", ".txt")


def with_splits_and_patients(source: Path, found: list[FoundCase], parameters: FileParameters) -> list[FoundCase]:
    """Cases with the split and the patient that files beside the data give them.

    A case that the split file does not list keeps its own split.

    Raises:
        UsageError: If such a file exists and is broken; names it.
    """
    if parameters.split_file is not None:
        splits = _read_splits(source, parameters.split_file)
        found = [replace(item, split=_look_up(splits, item.key) or item.split) for item in found]
    if parameters.patient_table is not None:
        patients = read_keyed_table(source, parameters.patient_table)
        found = [replace(item, patient=_look_up(patients, item.key) or item.patient) for item in found]
    return found


def with_pixel_sizes(source: Path, found: list[FoundCase], parameters: ImagePairParameters) -> list[FoundCase]:
    """Cases with `pixel_size_mm` (y, x) in `extra`, where it is known.

    Raises:
        UsageError: If the table of pixel sizes is missing or broken; names it.
    """
    if parameters.pixel_size_mm is not None:
        extra = {"pixel_size_mm": list(parameters.pixel_size_mm)}
        return [replace(item, extra={**item.extra, **extra}) for item in found]
    table = parameters.pixel_size_table
    if table is None:
        return found
    sizes = read_keyed_table(source, table)
    if not sizes:
        msg = f"{source} has no table of pixel sizes that matches {table.file!r}; put it beside the images"
        raise UsageError(msg)
    return [_with_size(item, _look_up(sizes, item.key), table) for item in found]


def read_keyed_table(source: Path, table: KeyedTable) -> dict[str, str]:
    """Key (a stem) to value from all files that match; empty if none does.

    Raises:
        UsageError: If a file lacks a column or cannot be read; names the file and its columns.
    """
    values: dict[str, str] = {}
    for name in _matching(source, table.file, TABLE_SUFFIXES):
        text = _read_text(source / name)
        reader = csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in text.partition("\n")[0] else ",")
        columns = {column.strip().lower(): column for column in reader.fieldnames or ()}
        missing = [column for column in (table.key, table.value) if column.lower() not in columns]
        if missing:
            msg = f"{source / name} has no column {missing[0]!r}; its columns are: {', '.join(columns) or 'none'}"
            raise UsageError(msg)
        key, value = columns[table.key.lower()], columns[table.value.lower()]
        values |= {
            without_suffix((row[key] or "").strip(), IMAGE_SUFFIXES): (row[value] or "").strip() for row in reader
        }
    return values


def _with_size(item: FoundCase, size: str | None, table: KeyedTable) -> FoundCase:
    if not item.image:
        return item
    try:
        millimetres = float(size or "nan")
    except ValueError:
        millimetres = float("nan")
    if not 0 < millimetres < float("inf"):
        reason = f"{item.image[0]}: no pixel size in column {table.value!r} (found {size!r}); add it to the table"
        return replace(item, reject_reason=item.reject_reason or reason)
    return replace(item, extra={**item.extra, "pixel_size_mm": [millimetres, millimetres]})


def _read_splits(source: Path, pattern: str) -> dict[str, str]:
    splits: dict[str, str] = {}
    for name in _matching(source, pattern, (".json",)):
        try:
            content = json.loads(_read_text(source / name))
        except ValueError as error:
            msg = f"{source / name} is not valid JSON: {error}; repair or remove it"
            raise UsageError(msg) from None
        if not isinstance(content, dict) or not all(isinstance(keys, list) for keys in content.values()):
            msg = f"{source / name} must map splits to lists of keys"
            raise UsageError(msg)
        splits |= {_plain(str(key)): str(split) for split, keys in content.items() for key in keys}
    return splits


def _look_up(values: Mapping[str, str], key: str) -> str | None:
    """Value for the last part of a key; leading zeros of numbers are ignored."""
    stem = key.rpartition("/")[2]
    return values.get(stem, values.get(_plain(stem)))


def _plain(key: str) -> str:
    stem = without_suffix(key, IMAGE_SUFFIXES)
    return str(int(stem)) if stem.isdecimal() else stem


def _matching(source: Path, pattern: str, suffixes: tuple[str, ...]) -> Iterable[str]:
    compiled = re.compile(pattern, re.IGNORECASE)
    return [name for name in visible_files(source, suffixes) if compiled.fullmatch(name)]


def _read_text(path: Path) -> str:
    try:
        with open_source(path) as file:
            return file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read: {error}; repair or remove it"
        raise UsageError(msg) from None
