"""Tests of the product: the folders mirror its packages, and `journeys` walks through all of them."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
GOLDEN = ROOT.parent / "shared" / "golden"
