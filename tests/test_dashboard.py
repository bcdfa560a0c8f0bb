import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from storage.parquet_tables import write_rows
from storage.run_ledger import utc_now
from storage.run_planning import BenchmarkRequest
from storage.store_layout import open_store
from storage.table_schemas import CASES
from tests.chromium import Watched, browser, needs_chromium
from tests.small_store import benchmark_here, ingest_here

pytestmark = needs_chromium
CHART = ".js-plotly-plot .main-svg"
SLICE = ".js-plotly-plot image"
FIRST_SLICE = f"document.querySelector('{SLICE}')?.getAttribute('href')"
HANG_MS = 60_000
REASON = "reference lies elsewhere than its image"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A real store: two phantom cohorts under both baselines, and one case that was rejected at ingest."""
    layout = open_store(tmp_path_factory.mktemp("dashboard") / "store")
    for kind in ("ct", "fundus"):
        ingest_here(layout, f"phantom:{kind},cases=7", kind)
    benchmark_here(layout, BenchmarkRequest(("ct", "fundus"), ("baseline:box", "baseline:otsu"), ("box",), split="all"))
    rejected = {"cohort": "ct", "case_id": "ct_broken", "patient_id": "ct_broken", "status": "rejected",
                "reason": REASON, "case_digest": "x", "raters": [], "structures": [], "in_training": [],
                "source": "ct_broken", "ingested_at": utc_now()}  # fmt: skip
    write_rows(layout.cases("ct"), [rejected], CASES)
    return layout


@pytest.fixture(scope="module")
def address(results):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = [sys.executable, "-m", "dashboards", "serve", "--store", str(results.root), "--port", str(port)]
    server = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/_stcore/health", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def wait_for(url, server, seconds=90):
    for _ in range(seconds * 2):
        assert server.poll() is None, "the server ended"
        try:
            return urllib.request.urlopen(url, timeout=2).read()
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(url)


@pytest.fixture(scope="module")
def chromium():
    with browser() as launched:
        yield launched


@pytest.fixture(scope="module")
def opened(chromium, address):
    """The app in one tab, as a person keeps it open, and what goes wrong in it."""
    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    page, watched = context.new_page(), Watched()
    page.set_default_timeout(HANG_MS)
    watched.watch(page)
    page.goto(address)
    page.wait_for_selector(CHART)
    yield page, watched
    context.close()


@pytest.fixture
def page(opened):
    """The open tab; after each test nothing may have gone wrong and nothing been fetched elsewhere."""
    shown, watched = opened
    yield shown
    assert not watched.errors
    assert not watched.external


def go_to(page, name):
    page.get_by_role("link", name=name, exact=True).click()
    page.wait_for_selector(f"h3:has-text('{name}')")


@pytest.mark.parametrize(
    ("name", "shows"),
    [
        ("Leaderboard", "How much is protocol"),
        ("Compare", "Distribution of differences"),
        ("Cases", "Left: prediction of"),
        ("Runs", "SHA-256 of weights|Runs (select one"),
        ("Failures", "Reasons"),
        ("Try", "Left weights"),
    ],
)
def test_a_page_opens_with_its_charts_and_without_errors(page, name, shows):
    go_to(page, name)
    page.get_by_text(shows.split("|")[-1]).first.wait_for()
    page.wait_for_selector(CHART)
    page.wait_for_timeout(500)
    assert page.get_by_test_id("stException").count() == 0


def test_leaderboard_names_denominators_and_units(page):
    go_to(page, "Leaderboard")
    page.get_by_text("scored of planned").wait_for()
    for title in ("Dice (share, 0 to 1, higher is better)", "time per case (s, logarithmic)"):
        page.wait_for_function("title => document.body.textContent.includes(title)", arg=title)


def test_a_moved_slice_slider_redraws_the_viewer(page):
    go_to(page, "Cases")
    slider = page.get_by_role("slider", name="Slice z (index)").first
    slider.wait_for()
    page.locator(SLICE).first.wait_for()
    page.wait_for_timeout(500)
    before = page.locator(SLICE).first.get_attribute("href")
    slider.press("ArrowRight")
    page.wait_for_function(f"before => ![null, undefined, before].includes({FIRST_SLICE})", arg=before)


def test_a_drawn_box_is_segmented_by_two_weights(page):
    go_to(page, "Try")
    page.wait_for_selector(".js-plotly-plot .nsewdrag")
    drag_over(page, 0.1, 0.2, 0.5, 0.65)
    page.get_by_text("Asked: box x").wait_for()
    page.get_by_role("button", name="Segment").click()
    page.get_by_text("best score").nth(1).wait_for()
    assert page.locator(CHART).count() > 2


def test_weights_that_cannot_take_points_say_so(page):
    go_to(page, "Try")
    page.get_by_text("Point inside").click()
    page.wait_for_selector(".js-plotly-plot .nsewdrag")
    asked = page.get_by_text("points: 1 inside")
    for _ in range(20):  # a click counts once the plot of the point tool has replaced that of the box tool
        click_on(page, 0.3, 0.45)
        page.wait_for_timeout(2000)
        if asked.count():
            break
    asked.wait_for()
    page.get_by_role("button", name="Segment").click()
    page.get_by_test_id("stAlert").first.wait_for()


def test_sql_answers_a_select_and_refuses_all_else(page):
    go_to(page, "SQL")
    page.get_by_text("rows", exact=False).first.wait_for()
    page.get_by_role("textbox", name="Query").fill("DROP VIEW scores")
    page.get_by_role("button", name="Run").click()
    page.get_by_text("sql takes one SELECT").wait_for()


def test_a_failure_is_grouped_by_its_reason(page):
    go_to(page, "Failures")
    page.wait_for_selector(CHART)
    assert REASON in page.inner_text(".js-plotly-plot >> nth=0")


def click_on(page, across, down):
    frame = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    page.mouse.move(frame["x"] + frame["width"] * across, frame["y"] + frame["height"] * down)
    page.wait_for_timeout(300)
    page.mouse.click(frame["x"] + frame["width"] * across, frame["y"] + frame["height"] * down)


def drag_over(page, left, top, right, bottom):
    frame = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    page.mouse.move(frame["x"] + frame["width"] * left, frame["y"] + frame["height"] * top)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] * right, frame["y"] + frame["height"] * bottom, steps=8)
    page.mouse.up()
