"""Schema versions of tables: what is older still reads, what is newer is refused by name."""

SCHEMA_VERSION = "1"
"""Raised when a column changes its type or meaning. A column that is added changes neither: older files hold NULL."""


def newer_version(found: bytes | None) -> str | None:
    """The schema version of a file if it is beyond ours; files without one are older than versions."""
    text = (found or b"0").decode(errors="replace")
    return None if text.isdecimal() and int(text) <= int(SCHEMA_VERSION) else text


def written_by_newer(file: str, version: str) -> str:
    """Message of the refusal of a file of a newer version."""
    return (
        f"{file} has schema version {version}, written by a newer medsam3; this one reads versions up to "
        f"{SCHEMA_VERSION}: upgrade medsam3"
    )
