"""Generated pages under `docs/reference/` are current and complete."""

import pytest

from flows.cli.reference import FOLDER, WITH_METRIC_TABLES, attribute_meanings, reference_pages
from flows.settings.settings import WatchSettings
from medsam3_core.metrics.table import METRICS
from storage.catalog.docs import with_metric_tables
from tests import ROOT


@pytest.mark.parametrize("name", ["catalog.md", "commands.md", "datasets.md", "settings.md"])
def test_a_generated_page_is_current(name: str) -> None:
    assert (ROOT / FOLDER / name).read_text(encoding="utf-8") == reference_pages()[name], "run: make docs"


def test_the_folder_holds_generated_pages_alone() -> None:
    assert {path.name for path in (ROOT / FOLDER).iterdir()} == reference_pages().keys()


@pytest.mark.parametrize("page", WITH_METRIC_TABLES, ids=lambda page: page.name)
def test_tables_of_metrics_in_other_pages_are_current(page) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in METRICS)
    assert text == with_metric_tables(text), "run: make docs"


def test_every_setting_has_a_meaning() -> None:
    rows = [line for line in reference_pages()["settings.md"].splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    assert not [row for row in rows if row.endswith("|  |")]


def test_a_meaning_that_goes_on_in_the_next_line_is_one_sentence() -> None:
    class Example:
        """Summary.

        Attributes:
            first: One line
                and another.
            second: Two.
        """

    assert attribute_meanings(Example) == {"first": "One line and another.", "second": "Two."}
    assert attribute_meanings(WatchSettings).keys() == {"weights", "every_seconds", "quiet_seconds"}
