"""Counts, numbers, sizes and durations as text for people."""

from collections.abc import Mapping


def format_counts(counts: Mapping[str, int]) -> str:
    """Counts by status, such as `2 failed, 30 scored`; empty for no status."""
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


def format_number(value: float | None, form: str = ".3f") -> str:
    """A number, or `-` for None."""
    return "-" if value is None else format(value, form)


def format_size(size_bytes: int) -> str:
    """A size with at most three digits before the unit."""
    units = ("B", "KB", "MB", "GB", "TB")
    size, unit = float(size_bytes), 0
    while size >= 1000 and unit < len(units) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {units[unit]}"


def format_duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours; at most two digits for seconds."""
    if seconds < 90:
        return f"{seconds:.2g} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
