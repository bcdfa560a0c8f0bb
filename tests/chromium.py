"""The browser of the page tests, and the mark of tests that are skipped where there is none."""

import pytest

from benchmarks.chromium import CHROMIUM, Watched, browser

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium")

__all__ = ["CHROMIUM", "Watched", "browser", "needs_chromium"]
