"""Pages of the dashboard on stores written by hand, run in this process without a browser."""

import json
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dashboards.figures.figures import history_figure
from dashboards.report.report import write_report
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import Structure
from medsam3_core.metrics.protocol_version import PROTOCOL_VERSION
from storage.catalog.queries import pages
from storage.cohorts.cohorts import Cohort, write_cohort
from storage.store.layout import STORE_VARIABLE, utc_now
from storage.store.schemas import AGREEMENT, PLAN
from storage.store.tables import write_columns, write_rows
from tests.stores.catalog import DIGEST, HandmadeStore, at


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Store shown by the pages."""
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path))
    return HandmadeStore(tmp_path)


def shown(page: str, arguments: str = "") -> AppTest:
    """Run a page and assert that it raises no error."""
    code = f"from dashboards.views import {page}\n{page}.show({arguments})"
    app = AppTest.from_string(code, default_timeout=60).run()
    assert not app.exception
    return app


def reported(made: HandmadeStore) -> str:
    """Body of the report."""
    text = write_report(made.layout, made.root / "report.html").read_text(encoding="utf-8")
    return text.partition("<main>")[2]


def test_all_is_done_is_said_only_where_nothing_is_pending(made):
    for case in ("c1", "c2"):
        made.case(case)
    made.run("run1")
    made.plan("run1", "c1", "c2")
    made.scored("run1", "c1", 0.5)
    assert [item.value for item in shown("failures", "print").info] == ["None so far; 1 planned score is pending."]
    assert not shown("failures", "print").success
    assert "None so far; 1 planned score is pending." in reported(made)
    made.scored("run1", "c2", 0.5)
    assert [item.value for item in shown("failures", "print").success] == ["None: every planned case has a score."]
    assert "None: every planned case has a score." in reported(made)


def test_cases_that_are_to_be_segmented_alone_are_pending_too(made):
    made.case("c1")
    made.run("run1")
    columns = {"case_id": ["c1"], "rater": [None], "structure": ["heart"]}
    write_columns(made.layout.plan("run1"), columns, {"run_id": "run1", "planned_at": utc_now()}, PLAN)
    assert pages.pending(made.layout) == 1
    made.outcome("run1", "c1", status="segmented")
    assert pages.pending(made.layout) == 0


@pytest.fixture
def two_raters(made):
    """Two weights on twelve cases that two raters drew; NEW is worse against the second one alone."""
    cases = [f"c{number:02}" for number in range(12)]
    for case in cases:
        made.case(case, raters=["r1", "r2"], structures=["heart"])
    recipe = Recipe("planted", "phantom", (Structure("heart", "heart"),), "CT", "ct:50,400")
    write_cohort(made.layout, Cohort(made.cohort, recipe, ("x",)))
    for weights in ("first", "second"):
        made.run(weights, weights=weights, settings="default", weights_sha256=weights * 9)
        for case in cases:
            made.scored(weights, case, 0.7)
            made.score(weights, case, 0.3 if weights == "second" else 0.6, rater="r2")
    return made


def test_raters_are_told_apart_on_pages_and_in_the_report(two_raters):
    (board,) = [table.value for table in shown("leaderboard").dataframe if "failures as 0" in table.value]
    assert list(board["rater"]) == ["r1", "r1", "r2", "r2"]
    page = shown("compare", "print")
    assert [item.value for item in page.error] == [
        "REGRESSION: second is worse than first on heart (hearts, text, rater r2: dice -0.300)."
    ]
    numbers, worst = (table.value for table in page.dataframe)
    assert list(zip(numbers["structure"], numbers["rater"], strict=True)) == [("heart", "r1"), ("heart", "r2")]
    assert set(worst["rater"]) == {"r2"}
    text = reported(two_raters)
    assert "<th>structure</th><th>rater</th><th>weights</th>" in text
    assert "heart, rater r2" in text


def test_the_leaderboard_draws_how_far_raters_agree_on_the_cases_that_it_shows(two_raters):
    row = {"cohort": two_raters.cohort, "structure": "heart", "rater": "r1", "case_digest": DIGEST, "empty": "none",
           "distance_unit": "mm", "protocol": PROTOCOL_VERSION}  # fmt: skip
    rows = [
        row | {"case_id": case, "other_rater": other, "dice": dice, "hd95": 3.0}
        for other, dice in (("r2", 0.8), ("r3", 0.4))
        for case in ("c00", "c01")
    ]
    write_rows(two_raters.layout.agreement(two_raters.cohort), rows, AGREEMENT)
    page = shown("leaderboard")
    (line,) = rater_lines(page)
    assert line["x"] == pytest.approx([0.8, 0.8])
    (choice,) = [box for box in page.selectbox if box.label == "Metric"]
    assert rater_lines(choice.select("nsd").run()) == []


def rater_lines(page: AppTest) -> list[dict[str, Any]]:
    """Lines of the second rater in the first plot."""
    figure = json.loads(page.get("plotly_chart")[0].proto.spec)
    return [trace for trace in figure["data"] if trace.get("name") == "second rater"]


def test_a_single_rater_is_not_named(made):
    made.case("c1", raters=["r1"], structures=["heart"])
    made.run("run1")
    made.scored("run1", "c1", 0.5)
    (board,) = [table.value for table in shown("leaderboard").dataframe if "failures as 0" in table.value]
    assert "rater" not in board
    assert "<th>rater</th>" not in reported(made)


def test_lines_of_the_history_are_those_of_one_split(made):
    for case, split in (("c1", "train"), ("c2", "test")):
        made.case(case, split=split)
    for version, run in ((1, "run1"), (2, "run2")):
        made.run(run, weights_version=version)
        made.scored(run, "c1", 0.9, finished_at=at(version))
        made.scored(run, "c2", 0.1 * version, finished_at=at(version))
    lines = {line.name: list(line.y) for line in history_figure(pages.history(made.layout), {}).data}
    assert lines == {"net, text, split test": [0.1, 0.2], "net, text, split train": [0.9, 0.9]}
    made.case("c1", split="test", ingested_at=at(9))
    assert [line.name for line in history_figure(pages.history(made.layout), {}).data] == ["net, text"]
