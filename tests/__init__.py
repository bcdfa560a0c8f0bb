"""Tests of the product: the folders mirror its packages, and `journeys` walks through all of them."""

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
SHARED_DATA = ROOT.parent / "shared" / "data"
GOLDEN = ROOT / "tests" / "golden"


def real_sources(name: str, few: tuple[Any, ...] = (), more: tuple[Any, ...] = ()) -> list[Any]:
    """Parameters of a test on real data: the few cases of a public set in the repository, and the larger part of it.

    Args:
        name: Folder of the set in `tests/data`, and in `shared/data` beside the repository, which is often absent.
        few: Further parameters for the few cases.
        more: Further parameters for the larger part.
    """
    sources = [pytest.param(DATA / name, *few, id=f"{name}-few")]
    if (SHARED_DATA / name).is_dir():
        sources.append(pytest.param(SHARED_DATA / name, *more, id=f"{name}-more"))
    return sources
