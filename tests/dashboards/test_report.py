import re
import subprocess
import sys

import numpy as np
import pytest

from dashboards.figures.style import weights_colours
from dashboards.report.report import write_report
from medsam3_core.cases.cases import CaseVolume
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import LabelEntry, LabelMap, Structure
from medsam3_core.errors import UsageError
from storage.cohorts.cohorts import Cohort, write_cohort
from storage.cohorts.volumes import write_case_volume
from storage.runs.predictions import PredictionWriter
from storage.store.layout import StoreLayout
from tests.chromium import Watched, browser, needs_chromium
from tests.stores.planted import plant_cohort, plant_run

STRUCTURES = ("liver", "spleen", "portal_vein")
MEGABYTE = 1_000_000
TOO_WIDE_PLOTS = """[...document.querySelectorAll('.js-plotly-plot')].filter(
    plot => plot.querySelector('svg').clientWidth > plot.parentElement.clientWidth + 1).length"""


def plant_pictures(store, cases, runs):
    """Volumes and predictions for a few cases: a bright block as reference, shifted as prediction."""
    recipe = Recipe("planted", "phantom", tuple(Structure(name, name) for name in STRUCTURES), "CT", "ct:50,400")
    write_cohort(store, Cohort(cases[0]["cohort"], recipe, ("x",)))
    geometry = VolumeGeometry.from_nifti((4, 64, 64), np.diag([1.0, 1.0, 3.0, 1.0]))
    for case in cases:
        voxels = np.random.default_rng(0).normal(0, 40, (4, 64, 64)).astype(np.int16)
        labels = np.zeros((4, 64, 64), dtype=np.uint8)
        labels[1:3, 20:40, 20:40] = 1
        voxels[labels > 0] += 120
        entries = tuple(LabelEntry(1, name) for name in STRUCTURES)
        volume = CaseVolume(voxels, geometry, (LabelMap(labels, geometry, entries),), "CT")
        write_case_volume(store.volume(case["cohort"], case["case_id"], zipped=False), case["case_id"], volume)
        for run in runs:
            writer = PredictionWriter(geometry, STRUCTURES, {})
            for name in STRUCTURES:
                writer.add(name, np.roll(labels, 3, axis=2).astype(np.uint16), [0.9])
            writer.write(store.prediction(run, case["case_id"]))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of two weights on a thousand cases; 50 of them have pictures, some failed."""
    root = tmp_path_factory.mktemp("report")
    store = StoreLayout(root / "store")
    cases = plant_cohort(store, "abdomen", 1000, STRUCTURES)
    noise = np.random.default_rng(0).normal(0, 0.05, (2, len(cases)))
    failed = {case["case_id"] for case in cases[500:510]}
    runs = [
        plant_run(store, cases, "old", lambda _: np.clip(0.8 + noise[0], 0, 1)),
        plant_run(store, cases, "new", lambda _: np.clip(0.82 + noise[1], 0, 1), failed=failed),
    ]
    extremes = np.argsort(noise[1])
    plant_pictures(store, [cases[place] for place in (*extremes[:8], *extremes[-8:])], runs)
    return write_report(store, root / "report.html")


def test_a_report_of_a_thousand_cases_is_below_ten_megabytes(report):
    assert report.stat().st_size < 10 * MEGABYTE


def test_the_report_carries_plotly_once_and_names_no_other_host(report):
    text = report.read_text()
    assert text.count("plotly.js v") == 1
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=['\"]?https?:", text)


def test_the_summary_is_made_from_the_numbers(report):
    text = report.read_text()
    assert "6,000 planned scores exist" in text
    assert "new, box leads with a mean Dice of 0.82" in text
    assert "20 results" not in text
    assert "10 results have no score" in text
    assert "failed" in text
    assert "planted" in text


@needs_chromium
def test_the_report_opens_offline_without_errors(report):
    watched = Watched()
    with browser() as launched:
        context = launched.new_context(offline=True, viewport={"width": 1200, "height": 900})
        page = context.new_page()
        watched.watch(page)
        page.goto(report.as_uri())
        page.wait_for_selector(".js-plotly-plot .main-svg", timeout=60_000)
        page.wait_for_timeout(500)
        assert page.locator("figure img").count() == 10
        assert page.evaluate(TOO_WIDE_PLOTS) == 0
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert not watched.errors
    assert not watched.external


def test_a_store_without_scores_makes_no_report(tmp_path):
    store = StoreLayout(tmp_path / "store")
    plant_cohort(store, "abdomen", 2, STRUCTURES)
    with pytest.raises(UsageError, match="has no scores to report; run medsam3 benchmark first"):
        write_report(store, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_process_of_the_report_says_what_is_wrong_in_one_line(tmp_path):
    call = [sys.executable, "-m", "dashboards", "report", "--store", str(tmp_path / "none"), "--out", "x.html"]
    answer = subprocess.run(call, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert re.fullmatch(r"medsam3: no store at .*\n", answer.stderr)


def test_weights_keep_their_colour_when_others_come_later():
    assert weights_colours(["a", "b", "c"])["b"] == weights_colours(["a", "b"])["b"]
