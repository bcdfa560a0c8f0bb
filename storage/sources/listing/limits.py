"""How large a case may say it is before anybody makes room for it.

A header of a few bytes can promise terabytes. The promise is checked before the file is decoded, so that one odd file
rejects itself and does not take the machine down.
"""

import os

import psutil

from medsam3_core.cases.series_geometry import SeriesFault, SeriesRejectedError

VARIABLE = "MEDSAM3_LARGEST_CASE_GB"
_SHARE_OF_MEMORY = 6
"""A volume is held about three times while it is written, by each of two or more workers."""


def largest_case_bytes() -> int:
    """Bytes of decoded voxels that a case may have: `MEDSAM3_LARGEST_CASE_GB`, else a sixth of the memory."""
    named = os.environ.get(VARIABLE)
    try:
        return int(float(named) * 1e9) if named else psutil.virtual_memory().total // _SHARE_OF_MEMORY
    except ValueError:
        return psutil.virtual_memory().total // _SHARE_OF_MEMORY


def require_fitting(what: str, declared: int, limit: int | None = None) -> None:
    """Refuse a case that declares more than the limit.

    Raises:
        SeriesRejectedError: Names the size, the limit and how to raise it.
    """
    limit = largest_case_bytes() if limit is None else limit
    if declared > limit:
        msg = (
            f"{what} declares {declared / 1e9:.2f} GB of voxels, the limit is {limit / 1e9:.2f} GB; if that is true, "
            f"raise {VARIABLE} on a machine with three times as much memory"
        )
        raise SeriesRejectedError.of(SeriesFault.TOO_LARGE, msg)
