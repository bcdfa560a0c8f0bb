"""The version of our tables, written into every schema and asked of every file that is read."""

import pyarrow as pa

SCHEMA_VERSION = "1"
"""Raised when a column changes its type or meaning: what is older still reads, what is newer is refused by name."""


def newer_version(found: bytes | None) -> str | None:
    """The schema version of a file if it is beyond ours; files without one are older than versions."""
    text = (found or b"0").decode(errors="replace")
    return None if text.isdecimal() and int(text) <= int(SCHEMA_VERSION) else text


def versioned_schema(table: str, *columns: tuple[str, pa.DataType, str]) -> pa.Schema:
    """The schema of a table from name, type and description of its columns."""
    fields = [pa.field(name, kind, metadata={"description": text}) for name, kind, text in columns]
    return pa.schema(fields, metadata={"table": table, "schema_version": SCHEMA_VERSION})
