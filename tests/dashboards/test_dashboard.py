import io
import os
import sys
from contextlib import suppress

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from dashboards.serve import PAGE_PATHS
from medsam3_core.metrics.table import METRICS
from storage.catalog.catalog import connect
from storage.runs.requests import BenchmarkRequest
from storage.store.layout import open_store, utc_now
from storage.store.schemas import CASES, OUTCOMES, SCORES
from storage.store.tables import write_rows
from tests.chromium import Watched, browser, needs_chromium
from tests.journeys.archives.written_dicom import ct_slices
from tests.server_processes import free_port, server_process
from tests.stores.small import benchmark_here, ingest_here

pytestmark = needs_chromium
CHART = ".js-plotly-plot .main-svg"
SLICE = ".js-plotly-plot image"
FIRST_SLICE = f"document.querySelector('{SLICE}')?.getAttribute('href')"
HANG_MS = 60_000
RESTS = "document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
REASON = "reference lies elsewhere than its image"
FAILED = "no memory for 3 slices"


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
    fail_a_case(layout)
    return layout


def fail_a_case(layout):
    """Make one case fail in a later attempt."""
    with connect(layout, "scores") as con:
        query = "SELECT * FROM scores WHERE cohort = 'fundus' AND weights = 'baseline:box' ORDER BY case_id LIMIT 1"
        (row,) = con.sql(query).to_arrow_table().to_pylist()
    ended = {"status": "failed", "reason": FAILED, "attempt": "again", "finished_at": utc_now()}
    nothing = dict.fromkeys((*METRICS, "empty", "confidence", "reference_volume", "prediction_volume", "volume_error"))
    write_rows(layout.scores(row["run_id"]), [row | nothing | ended], SCORES)
    outcome = {name: row[name] for name in ("run_id", "case_id", "case_digest")}
    write_rows(layout.outcomes(row["run_id"]), [outcome | ended], OUTCOMES)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """Folder of the server's temporary files."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def address(results, scratch):
    port = free_port()
    call = [sys.executable, "-m", "dashboards", "serve", "--store", str(results.root), "--port", str(port)]
    url, environment = f"http://127.0.0.1:{port}", {**os.environ, "TMPDIR": str(scratch)}
    with server_process(call, f"{url}/_stcore/health", scratch.parent / "dashboard.log", environment):
        yield url


@pytest.fixture(scope="module")
def chromium():
    with browser() as launched:
        yield launched


@pytest.fixture(scope="module")
def opened(chromium, address):
    """The app in one tab that stays open, and a record of its errors."""
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
    """The open tab; after each test there must be no error and no external request."""
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
        ("Leaderboard", "Effect of the protocol"),
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


@pytest.mark.parametrize("path", PAGE_PATHS)
def test_every_page_has_an_address_of_its_own(chromium, address, path):
    watched = Watched()
    context = chromium.new_context()
    page = context.new_page()
    watched.watch(page)
    page.goto(f"{address}/{path}")
    page.locator("h3").get_by_text(path, exact=False).first.wait_for(timeout=HANG_MS)
    page.wait_for_function(RESTS, timeout=HANG_MS)
    assert page.get_by_test_id("stException").count() == 0
    assert page.get_by_text("Page not found").count() == 0
    context.close()
    assert not watched.errors
    assert not watched.external


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
    page.get_by_text("Prompt: box x").wait_for()
    page.get_by_role("button", name="Segment").click()
    page.get_by_text("best score").nth(1).wait_for()
    assert page.locator(CHART).count() > 2


def test_weights_that_cannot_take_points_say_so(page):
    go_to(page, "Try")
    page.wait_for_selector(".js-plotly-plot .nsewdrag")
    draw_until_asked(page, "Point inside", "points: 1 inside")
    page.get_by_role("button", name="Segment").click()
    page.get_by_test_id("stAlert").first.wait_for()


def uploads():
    """One file of each kind by name: content, and True if it has slices."""
    disc = np.hypot(*np.mgrid[-40:40, -48:48]) < 20
    sink = io.BytesIO()
    Image.fromarray(np.where(disc, 220, 30).astype(np.uint8)).save(sink, "PNG")
    stack = np.repeat(np.where(disc, 900.0, 0.0)[..., None], 3, axis=2).astype(np.float32)
    volume = nib.Nifti1Image(stack.swapaxes(0, 1), np.diag([1.0, 1.0, 3.0, 1.0]))
    dicom = io.BytesIO()
    ct_slices(1)[0].save_as(dicom, enforce_file_format=True)
    return {"photo.png": (sink.getvalue(), False), "scan.nii": (volume.to_bytes(), True),
            "IM0001": (dicom.getvalue(), False)}  # fmt: skip


@pytest.mark.parametrize("name", uploads())
def test_an_upload_is_drawn_on_and_answered_and_nothing_of_it_is_kept(page, results, scratch, name):
    before = files_below(results.root), files_below(scratch)
    content, has_slices = uploads()[name]
    go_to(page, "Try")
    page.get_by_text("Uploaded image").click()
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "", "buffer": content})
    page.get_by_text(name).first.wait_for()
    page.wait_for_selector(".js-plotly-plot .nsewdrag")
    assert page.get_by_role("slider", name="Slice z (index)").count() == has_slices
    draw_until_asked(page, "Box", "Prompt: box x")
    page.get_by_role("button", name="Segment").click()
    page.get_by_text("best score").nth(1).wait_for()
    draw_until_asked(page, "Point inside", "points: 1 inside, 0 outside")
    page.get_by_text("Case in the store").click()
    page.get_by_role("combobox", name="Case").first.wait_for()
    page.wait_for_function(RESTS)
    assert (files_below(results.root), files_below(scratch)) == before


def test_an_upload_that_cannot_be_read_is_named(page):
    go_to(page, "Try")
    page.get_by_text("Uploaded image").click()
    page.locator("input[type=file]").set_input_files({"name": "notes.txt", "mimeType": "", "buffer": b"hello"})
    page.get_by_text("cannot read files that end in '.txt'").wait_for()
    page.get_by_text("Case in the store").click()


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def draw_until_asked(page, tool, expected):
    """Draw until the prompt shows, because a new plot replaces the old one after a while."""
    page.get_by_text(tool, exact=True).click()
    asked = page.get_by_text(expected)
    for _ in range(20):
        page.wait_for_function(RESTS)
        if tool == "Box":
            drag_over(page, 0.25, 0.25, 0.6, 0.65)
        else:
            click_on(page, 0.5, 0.5)
        page.wait_for_timeout(1500)
        if asked.count():
            return
    asked.wait_for()


def test_sql_answers_a_select_and_refuses_all_else(page):
    go_to(page, "SQL")
    page.get_by_text("rows", exact=False).first.wait_for()
    page.get_by_role("textbox", name="Query").fill("DROP VIEW scores")
    page.get_by_role("button", name="Run").click()
    page.get_by_text("sql accepts one SELECT").wait_for()


def test_a_failure_is_grouped_by_its_reason(page):
    go_to(page, "Failures")
    page.wait_for_selector(CHART)
    assert REASON in page.inner_text(".js-plotly-plot >> nth=0")


def test_one_click_leads_from_a_failure_to_its_case_and_the_reason(page):
    go_to(page, "Failures")
    page.wait_for_function(RESTS)
    cases = page.locator("[data-testid='stDataFrame']").nth(1)
    cases.scroll_into_view_if_needed()
    for _ in range(6):  # a table accepts clicks once it is drawn
        place = cases.bounding_box()
        page.mouse.click(place["x"] + 15, place["y"] + 35 + 17)
        with suppress(PlaywrightTimeout):
            page.wait_for_url("**/cases", timeout=10_000)
            break
    page.get_by_text(f"fundus_000: failed under baseline:box, box: {FAILED}").wait_for()
    page.wait_for_selector(SLICE)


def frame_of_slice(page):
    """Bounding box of the slice; a plot that is being replaced has none for a moment."""
    for _ in range(100):
        page.wait_for_selector(".js-plotly-plot .nsewdrag")
        if frame := page.locator(".js-plotly-plot .nsewdrag").first.bounding_box():
            return frame
        page.wait_for_timeout(200)
    raise TimeoutError("no slice")


def click_on(page, across, down):
    frame = frame_of_slice(page)
    page.mouse.move(frame["x"] + frame["width"] * across, frame["y"] + frame["height"] * down)
    page.wait_for_timeout(300)
    page.mouse.click(frame["x"] + frame["width"] * across, frame["y"] + frame["height"] * down)


def drag_over(page, left, top, right, bottom):
    frame = frame_of_slice(page)
    page.mouse.move(frame["x"] + frame["width"] * left, frame["y"] + frame["height"] * top)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] * right, frame["y"] + frame["height"] * bottom, steps=8)
    page.mouse.up()
