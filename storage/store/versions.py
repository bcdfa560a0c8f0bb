"""Schema versions of tables: older files are read, newer ones are refused by name."""

SCHEMA_VERSION = "1"
"""Raise it when a column changes its type or meaning. An added column changes neither: older files give NULL."""


def newer_version(found: bytes | None) -> str | None:
    """The schema version of a file if it is newer than ours; files without one are older."""
    text = (found or b"0").decode(errors="replace")
    return None if text.isdecimal() and int(text) <= int(SCHEMA_VERSION) else text


def written_by_newer(file: str, version: str) -> str:
    """Error message for a file of a newer version."""
    return (
        f"{file} has schema version {version}, written by a newer medsam3; this medsam3 reads versions "
        f"up to {SCHEMA_VERSION}: upgrade medsam3"
    )
