"""The published toolkit's formulas on its own examples, and its denominators."""

import math

import pytest
from click.testing import CliRunner

from dashboards.figures.protocol_effect import protocol_sentences
from dashboards.report.report import write_report
from flows.cli.entry import cli
from medsam3_core.errors import UsageError
from medsam3_core.settings.inference import InferenceSettings
from medsam3_core.settings.presets import MEDICAL_SAM3_V1, PRESETS, apply_preset
from storage.catalog.catalog import connect
from storage.catalog.queries import pages
from tests.stores.catalog import HandmadeStore, at

VOXELS = 1008 * 1008
SETTINGS = PRESETS[MEDICAL_SAM3_V1].settings_id


def counts(tp, fp, fn):
    return {
        "true_positive": tp, "false_positive": fp, "false_negative": fn, "true_negative": VOXELS - tp - fp - fn,
        "empty": {(False, True): "prediction", (True, False): "reference", (False, False): "both"}.get(
            (tp + fp > 0, tp + fn > 0), "none"
        ),
    }  # fmt: skip


@pytest.fixture
def store(tmp_path):
    made = HandmadeStore(tmp_path)
    for case in ("c1", "c2", "c3", "c4"):
        made.case(case, raters=["r1"], structures=["heart"])
    return made


def published(store, columns, prompt="text"):
    query = f"SELECT {columns} FROM medical_sam3_v1 WHERE prompt LIKE '{prompt}%'"
    with connect(store.layout, query) as con:
        return con.execute(query).fetchall()


def test_a_missed_lesion_of_30_by_30_pixels_gets_30_decibels_and_half_an_ssim_by_the_formulas_alone(store):
    store.run("run1", settings_id=SETTINGS)
    store.scored("run1", "c1", 0.001, **counts(tp=1, fp=0, fn=899))
    ((psnr, ssim, dice),) = published(store, "psnr_mean, ssim_mean, dice_mean")
    assert psnr == pytest.approx(30.5, abs=0.05)
    assert ssim == pytest.approx(0.50, abs=0.01)
    assert dice == pytest.approx(2 / 901)


def test_ssim_is_the_one_of_two_images_of_zeros_and_ones(store):
    store.run("run1", settings_id=SETTINGS)
    store.scored("run1", "c1", 0.5, **counts(tp=300_000, fp=100_000, fn=50_000))
    r, p = 350_000 / VOXELS, 400_000 / VOXELS
    covariance = 300_000 / VOXELS - r * p
    expected = (2 * r * p + 1e-4) * (2 * covariance + 9e-4)
    expected /= (r * r + p * p + 1e-4) * (r * (1 - r) + p * (1 - p) + 9e-4)
    ((ssim, psnr, iou, precision, recall),) = published(
        store, "ssim_mean, psnr_mean, iou_mean, precision_mean, recall_mean"
    )
    assert ssim == pytest.approx(expected)
    assert psnr == pytest.approx(10 * math.log10(VOXELS / 150_000))
    assert (iou, precision, recall) == pytest.approx((300 / 450, 300 / 400, 300 / 350))


def test_a_text_without_mask_is_a_row_of_zeros_and_a_box_without_mask_is_dropped(store):
    for run, prompt in (("run1", "text:slices=all"), ("run2", "box:jitter=0,per=structure,slices=all")):
        store.run(run, prompt=prompt, prompt_id=run, settings_id=SETTINGS)
        store.scored(run, "c1", 1.0, **counts(tp=900, fp=0, fn=0))
        store.scored(run, "c2", 0.0, **counts(tp=0, fp=0, fn=900))
        store.scored(run, "c3", 0.0, **counts(tp=0, fp=50, fn=0))  # absent: a false alarm that nobody counts
        store.scored(run, "c4", None)
    columns = "n, dice_mean, psnr_mean, absent_left_out, boxes_dropped, texts_as_zero, is_preset"
    assert published(store, columns, "text") == [(3, pytest.approx(1 / 3), 0.0, 1, 0, 2, True)]
    assert published(store, columns, "box") == [(1, 1.0, None, 1, 2, 0, True)]


def test_cases_that_were_trained_on_stay_in_and_other_settings_are_told_apart(store):
    store.run("run1")
    store.scored("run1", "c1", 1.0, in_training=True, **counts(tp=900, fp=0, fn=0))
    assert published(store, "n, dice_mean, is_preset") == [(1, 1.0, False)]


def test_a_second_raters_reference_is_not_mixed_in_and_rows_without_counts_are_told(store):
    store.run("run1")
    store.scored("run1", "c1", 1.0, **counts(tp=900, fp=0, fn=0))
    store.score("run1", "c1", 0.0, rater="r2", **counts(tp=0, fp=9, fn=9))
    store.scored("run1", "c2", 0.5, finished_at=at(11))
    assert published(store, "n, dice_mean, without_counts") == [(1, 1.0, 1)]


def test_the_preset_is_one_box_round_all_foreground_the_single_best_mask_and_a_threshold_of_a_tenth():
    prompts, settings = apply_preset(MEDICAL_SAM3_V1, (), ())
    assert prompts == ("text", "box:per=structure")
    parsed = InferenceSettings.parse(settings)
    assert (parsed.merge, parsed.threshold) == ("top", 0.1)
    assert apply_preset(MEDICAL_SAM3_V1, ("text",), ())[0] == ("text",)


@pytest.mark.parametrize(
    ("name", "prompts", "settings", "message"),
    [
        ("sam3-v9", (), (), "unknown preset 'sam3-v9'; the presets are: medical-sam3-v1"),
        (MEDICAL_SAM3_V1, ("box:jitter=0.1",), (), "leave out --prompt box:jitter=0.1"),
        (MEDICAL_SAM3_V1, (), ("threshold=0.5",), "leave out --set threshold=0.5"),
    ],
)
def test_what_contradicts_a_preset_is_refused(name, prompts, settings, message):
    with pytest.raises(UsageError, match=message):
        apply_preset(name, prompts, settings)


def store_run_both_ways(store):
    """Dice 0.5, 0.9 and a missed box by our settings; 0.7, 0.9 and a missed box, which is dropped, by the preset's."""
    ours = InferenceSettings().settings_id
    for run, settings_id, first in (("ours", ours, 500), ("theirs", SETTINGS, 700)):
        store.run(run, prompt="box:jitter=0,per=auto,slices=all", prompt_id=run, settings_id=settings_id)
        for case, shared in (("c1", first), ("c2", 900)):
            row = counts(tp=shared, fp=1000 - shared, fn=1000 - shared)
            store.scored(run, case, shared / 1000, **row)
        store.scored(run, "c3", 0.0, **counts(tp=0, fp=0, fn=1000))
    return store


def test_the_steps_from_our_protocol_to_the_published_one_are_told_apart(store):
    steps = pages.protocol_steps(store_run_both_ways(store).layout, "hearts")
    (row,) = steps.to_dict("records")
    assert (row["ours"], row["settings"]) == (pytest.approx(1.4 / 3), pytest.approx(1.6 / 3))
    assert (row["formulas"], row["published"], row["n"]) == (pytest.approx(0.7), pytest.approx(0.8), 2)
    assert protocol_sentences(steps, "hearts") == [
        "Mean Dice of net with box prompts on hearts: 0.467 by our protocol, 0.800 by the published one. Effect of the "
        "protocol: +0.333 (published settings +0.067, published denominators +0.233 alone)."
    ]


def test_the_steps_are_those_of_the_rater_that_the_toolkit_is_compared_with(store):
    for case in ("c1", "c2", "c3"):
        store.case(case, raters=["r1", "r2"], structures=["heart"], ingested_at=at(1))
    store_run_both_ways(store)
    for run in ("ours", "theirs"):
        for case in ("c1", "c2", "c3"):
            store.score(run, case, 1.0, rater="r2", **counts(tp=1000, fp=0, fn=0))
    (row,) = pages.protocol_steps(store.layout, "hearts").to_dict("records")
    assert (row["ours"], row["settings"]) == (pytest.approx(1.4 / 3), pytest.approx(1.6 / 3))


def test_without_a_run_of_the_preset_the_denominators_alone_are_shown(store):
    store.run("ours", prompt="text:slices=all", settings_id=InferenceSettings().settings_id)
    store.scored("ours", "c1", 0.5, **counts(tp=500, fp=500, fn=500))
    (row,) = pages.protocol_steps(store.layout, "hearts").to_dict("records")
    assert (row["ours"], row["formulas"]) == (0.5, 0.5)
    assert math.isnan(row["published"])


def test_weights_of_which_the_toolkit_drops_every_box_are_shown_with_no_rows(store):
    store.run("ours", prompt="box:jitter=0,per=auto,slices=all", settings_id=InferenceSettings().settings_id)
    store.scored("ours", "c1", 0.0, **counts(tp=0, fp=0, fn=1000))
    (row,) = pages.protocol_steps(store.layout, "hearts").to_dict("records")
    assert (row["ours"], row["n"]) == (0.0, 0)
    assert math.isnan(row["formulas"])


def test_the_report_shows_how_much_is_protocol(store, tmp_path):
    text = write_report(store_run_both_ways(store).layout, tmp_path / "report.html").read_text()
    assert "Effect of the protocol" in text
    assert "Effect of the protocol: +0.333" in text
    assert "as published" in text


def test_the_command_line_plans_the_runs_of_the_preset(phantom_run):
    arguments = ["benchmark", "--cohort", "ct", "--weights", "baseline:box", "--preset", MEDICAL_SAM3_V1, "--plan"]
    answer = CliRunner().invoke(cli, [*arguments, "--store", str(phantom_run.root)])
    assert answer.exit_code == 0
    assert "box:jitter=0,per=structure,slices=all" in answer.stdout
