"""Limit on the decoded size that the header of a case may declare.

A header of a few bytes can declare terabytes. It is checked before the file is decoded, so that one odd file is
rejected instead of exhausting the memory.
"""

import os
from contextlib import suppress

import psutil

from medsam3_core.cases.series_geometry import SeriesFault, SeriesRejectedError

VARIABLE = "MEDSAM3_LARGEST_CASE_GB"
_SHARE_OF_MEMORY = 6
"""A volume is held about three times while it is written, by each of two or more workers."""


def require_fitting(file: str, declared: int) -> None:
    """Refuse a case that declares more bytes than `MEDSAM3_LARGEST_CASE_GB`, by default a sixth of the memory.

    Raises:
        SeriesRejectedError: Names the size, the limit and how to raise it.
    """
    limit = psutil.virtual_memory().total // _SHARE_OF_MEMORY
    with suppress(ValueError):
        limit = int(float(os.environ.get(VARIABLE, "")) * 1e9)
    if declared > limit:
        msg = (
            f"{file} declares {declared / 1e9:.2f} GB of voxels, the limit is {limit / 1e9:.2f} GB; if the size is "
            f"correct, raise {VARIABLE} on a machine with three times as much memory"
        )
        raise SeriesRejectedError.of(SeriesFault.TOO_LARGE, msg)
