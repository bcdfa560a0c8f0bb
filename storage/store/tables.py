"""Parquet tables: writing with a check of the schema, reading of files of this and older versions."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medsam3_core.errors import StoreError
from storage.store.atomic import replacing
from storage.store.locations import is_remote, read_contents
from storage.store.versions import newer_version, written_by_newer


def write_rows(folder: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema, *, name: str | None = None) -> Path:
    """Write rows as one new file of a table folder; workers never share a file.

    Args:
        folder: Folder of the table; created if absent.
        rows: Every key must be a column; missing keys become NULL.
        schema: One of `storage.store.schemas`.
        name: File name without suffix if writing twice must give the same file; otherwise a new one.

    Raises:
        StoreError: If a row has a column that the schema lacks or a value of another type, or the disk refuses.
    """
    if strays := {key for row in rows for key in row} - set(schema.names):
        msg = f"rows for {folder} have the unknown columns {sorted(strays)}"
        raise StoreError(msg)
    try:
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        msg = f"rows for {folder} do not fit the table's schema: {error}"
        raise StoreError(msg) from error
    return _write(folder, name, table)


def write_columns(
    folder: Path, columns: Mapping[str, Sequence[Any]], constants: Mapping[str, Any], schema: pa.Schema
) -> Path:
    """Write whole columns as one new file of a table folder, for tables too long for a dictionary per row.

    Args:
        folder: Folder of the table; created if absent.
        columns: Columns of equal length.
        constants: Columns with one value for all rows.
        schema: One of `storage.store.schemas`, with exactly these columns.
    """
    rows = len(next(iter(columns.values())))
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.repeat(pa.scalar(constants[field.name], field.type), rows)
        for field in schema
    ]
    return _write(folder, None, pa.table(arrays, schema=schema))


def _write(folder: Path, name: str | None, table: pa.Table) -> Path:
    target = folder / f"{name or uuid.uuid4().hex}.parquet"
    with replacing(target) as scratch:
        pq.write_table(table, scratch, compression="zstd")
    return target


def read_table(folder: Path, schema: pa.Schema, *, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a table folder with the columns of `schema` (NULL if an older file lacks one).

    An absent or empty folder is an empty table.

    Raises:
        StoreError: If a file is not Parquet, has a column of another type or was written by a newer medsam3; names it.
    """
    wanted = pa.schema([schema.field(name) for name in columns]) if columns else schema
    files = table_files(folder)
    if is_remote(folder):
        contents = zip(files, read_contents(files), strict=True)
        tables = [_read(path, pa.BufferReader(content), wanted) for path, content in contents]
    else:
        tables = [_read(path, path, wanted) for path in files]
    return pa.concat_tables(tables) if tables else wanted.empty_table()


def table_files(folder: Path) -> list[Path]:
    """Finished files of a table folder, sorted; scratch files of writers are left out."""
    if not is_remote(folder):
        return sorted(folder.glob("[!.]*.parquet")) if folder.is_dir() else []
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".parquet" and not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_file(path: Path, wanted: pa.Schema) -> pa.Table:
    """Rows of one file with exactly the columns `wanted`.

    Raises:
        StoreError: If it is damaged, has a column of another type or was written by a newer medsam3.
    """
    return _read(path, pa.BufferReader(path.read_bytes()) if is_remote(path) else path, wanted)


def _read(path: Path, content: Path | pa.BufferReader, wanted: pa.Schema) -> pa.Table:
    try:
        with pq.ParquetFile(content) as file:
            present = file.schema_arrow
            if newer := newer_version((present.metadata or {}).get(b"schema_version")):
                raise StoreError(written_by_newer(str(path), newer))
            table = file.read(columns=[name for name in wanted.names if name in present.names])
        for field in wanted:
            if field.name not in present.names:
                table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        return table.select(wanted.names).cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        msg = f"{path} is not a table of this version: {error}; move it away and run again"
        raise StoreError(msg) from error


def statuses_of(folder: Path, name: str, schema: pa.Schema) -> dict[str, str]:
    """Case ids and statuses in the file of this name (without suffix); empty if there is none."""
    path = folder / f"{name}.parquet"
    if not path.exists():
        return {}
    table = read_file(path, pa.schema([schema.field("case_id"), schema.field("status")]))
    return dict(zip(table["case_id"].to_pylist(), table["status"].to_pylist(), strict=True))


def rows_of_cases(tables: Iterable[pa.Table], case_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of these cases, as plain dictionaries."""
    wanted = pa.array(case_ids, pa.string())
    return [row for table in tables for row in table.filter(pc.is_in(table["case_id"], value_set=wanted)).to_pylist()]
