"""Prompts files of users: CSV, Parquet or JSON, for the cases of a source or for one image."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from medsam3_core.cases.cases import slug_case_id
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import UsageError
from medsam3_core.prompts.files import objects_apart, prompt_row, validate_rows
from medsam3_core.prompts.prompts import SlicePrompt
from medsam3_core.prompts.rows import PromptRow, slice_prompts
from medsam3_core.settings.inference import PromptMode


def read_prompts_file(path: Path, defaults: Mapping[str, Any] | None = None) -> list[PromptRow]:
    """Rows of a prompts file: CSV, Parquet or JSON (a list of objects), by its suffix.

    `defaults` are the values of columns that a row leaves empty.

    Raises:
        UsageError: If it is missing, of another format, empty or malformed; names file, row and remedy.
    """
    try:
        table = _table(path)
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        msg = f"prompts file {path} cannot be read: {error}"
        raise UsageError(msg) from error
    if not isinstance(table, list) or not table or not all(isinstance(row, dict) for row in table):
        msg = f"prompts file {path} holds no rows; give at least one prompt"
        raise UsageError(msg)
    return [prompt_row(row, number, defaults) for number, row in enumerate(table, start=1)]


def prompts_of_image(
    path: Path, image: Path, geometry: VolumeGeometry, mode: PromptMode
) -> dict[int, list[SlicePrompt]]:
    """Prompts of one image by slice, one per object.

    Rows are left out if their `case_id` is not the image's name. A file with one `case_id`, or none, is about this
    image.

    Raises:
        UsageError: If the file is malformed, has no prompts for this image, or a row does not fit it.
    """
    name = image.name.removesuffix(".gz").rpartition(".")[0] or image.name
    rows = read_prompts_file(path, {"case_id": name, **({"slice": 0} if geometry.shape_zyx[0] == 1 else {})})
    cases = list(dict.fromkeys(row.case_id for row in rows))
    wanted = cases[0] if len(cases) == 1 else next((one for one in cases if one in (name, slug_case_id(name))), None)
    if wanted is None:
        msg = (
            f"{path} has prompts for {len(cases)} cases, none of them {name!r}: {', '.join(cases[:5])}; name this "
            "image in the column case_id, or leave out the other rows"
        )
        raise UsageError(msg)
    own = []
    for number, row in enumerate(rows, start=1):
        if row.case_id == wanted:
            validate_rows([row], geometry, first_number=number)
            own.append(row)
    return slice_prompts(objects_apart(own, mode), geometry.shape_zyx[1:])


def _table(path: Path) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]]
    match path.suffix.lower():
        case ".parquet":
            rows = pq.read_table(path).to_pylist()
        case ".json":
            rows = json.loads(path.read_text(encoding="utf-8-sig"))
        case ".csv":
            with path.open(encoding="utf-8-sig", newline="") as handle:
                rows = list(csv.DictReader(handle))
        case _:
            msg = f"{path} is neither .csv, .parquet nor .json; write the prompts as one of them"
            raise UsageError(msg)
    return rows
