"""The main job through the command line, with real processes and a real Prefect server."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from storage.cohorts.volumes import open_case_volume
from storage.runs.predictions import open_prediction
from storage.store.layout import StoreLayout
from tests.journeys.main_job.conftest import Medsam3, copy_of, rows

BENCHMARK = ("benchmark", "--cohort", "ct", "--cohort", "fundus", "--weights", "baseline:box", "--weights")
BENCHMARK += ("tiny-untrained", "--prompt", "box", "--prompt", "text", "--split", "all")
IN_PROCESS = ("--cluster", "threads")
"""For tests about what is computed, not about who computes it: no worker processes to start."""


@pytest.fixture(scope="module")
def benchmarked(medsam3: Medsam3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("main") / "store"
    medsam3("ingest", "phantom:ct,cases=5,size=6x48x56", "--cohort", "ct", store=store)
    medsam3("ingest", "phantom:fundus,cases=5,size=1x96x96", "--cohort", "fundus", *IN_PROCESS, store=store)
    finished = medsam3(*BENCHMARK, store=store)
    assert "skipped: baseline:box does not accept text prompts (text:slices=all)" in finished.stderr
    assert "tiny-untrained" in finished.stdout
    return store


def test_every_planned_case_and_structure_has_exactly_one_row(benchmarked: Path) -> None:
    doubled = rows(
        benchmarked,
        "SELECT run_id, case_id, rater, structure, count(*) AS n FROM scores GROUP BY ALL HAVING n <> 1",
    )
    planned = rows(benchmarked, "SELECT count(*) AS n FROM plan")[0]["n"]
    scored = rows(benchmarked, "SELECT count(*) AS n FROM scores WHERE status = 'scored'")[0]["n"]
    assert doubled == []
    assert planned == scored
    assert len(rows(benchmarked, "SELECT * FROM runs")) == 6  # two cohorts x (box by two weights, text by one)


def test_overlap_in_the_table_is_what_a_few_independent_lines_give(benchmarked: Path) -> None:
    store = StoreLayout(benchmarked)
    table = rows(benchmarked, "SELECT * FROM scores WHERE empty <> 'both'")
    for row in table:
        case = open_case_volume(store.volume(str(row["cohort"]), str(row["case_id"]), zipped=row["ndim"] == 2))
        reference = case.reference(str(row["rater"])).mask(str(row["structure"]))
        drawn = open_prediction(store.prediction(str(row["run_id"]), str(row["case_id"])))
        prediction = drawn.labels(str(row["structure"])) > 0
        both = (reference & prediction).sum()
        dice = 2 * both / (reference.sum() + prediction.sum())
        iou = both / (reference | prediction).sum()
        assert row["dice"] == pytest.approx(dice, abs=1e-6)
        assert row["iou"] == pytest.approx(iou, abs=1e-6)
        if row["empty"] == "none":
            assert row["precision"] == pytest.approx(both / prediction.sum(), abs=1e-6)
            assert row["recall"] == pytest.approx(both / reference.sum(), abs=1e-6)
    assert len(table) > 50


def test_untrained_weights_draw_at_least_half_of_their_masks(benchmarked: Path) -> None:
    drawn = rows(
        benchmarked,
        "SELECT avg((prediction_volume > 0)::INT) AS share FROM scores WHERE weights = 'tiny-untrained' "
        "AND (prompt LIKE 'text%' OR reference_volume > 0)",
    )
    assert float(str(drawn[0]["share"])) >= 0.5


def test_all_weights_share_the_prompts_of_a_policy(benchmarked: Path) -> None:
    by_policy = rows(benchmarked, "SELECT prompt, count(DISTINCT prompt_id) AS ids FROM scores GROUP BY prompt, cohort")
    assert all(row["ids"] == 1 for row in by_policy)
    doubled = rows(
        benchmarked,
        "SELECT case_id FROM prompts WHERE kind = 'box' GROUP BY cohort, prompt_id, case_id, slice, structure, "
        "instance HAVING count(*) > 1",
    )
    assert doubled == []


def test_the_same_benchmark_again_computes_nothing_and_says_so(benchmarked: Path, medsam3: Medsam3) -> None:
    before = rows(benchmarked, "SELECT count(*) AS n, max(finished_at) AS t FROM outcomes")
    finished = medsam3(*BENCHMARK, store=benchmarked)
    assert "nothing to compute: 30 results are up to date" in finished.stderr
    assert rows(benchmarked, "SELECT count(*) AS n, max(finished_at) AS t FROM outcomes") == before


def test_a_cohort_that_grows_computes_only_its_new_cases(benchmarked: Path, medsam3: Medsam3, tmp_path: Path) -> None:
    store = copy_of(benchmarked, tmp_path / "store")
    grown = ("ingest", "phantom:fundus,cases=7,size=1x96x96", "--cohort", "fundus")
    command = ("benchmark", "--cohort", "fundus", "--weights", "baseline:box", "--prompt", "box", "--split", "all")
    medsam3(*grown, *IN_PROCESS, store=store)
    finished = medsam3(*command, *IN_PROCESS, store=store)
    assert "computed 2 scored; 5 results were up to date" in finished.stderr


def test_bad_cases_are_rejected_by_name_and_counted_and_the_others_are_scored(medsam3: Medsam3, tmp_path: Path) -> None:
    source, store = tmp_path / "source", tmp_path / "store"
    for folder in ("imagesTr", "labelsTr"):
        (source / folder).mkdir(parents=True)
    for name in ("good", "short", "shifted", "unnamed"):
        _write_pair(source, name)
    whole = (source / "imagesTr" / "short.nii.gz").read_bytes()
    (source / "imagesTr" / "short.nii.gz").write_bytes(whole[: len(whole) // 2])
    _write_pair(source, "shifted", label_shift=5.0)
    _write_pair(source, "unnamed", value=7)
    (source / "dataset.json").write_text(
        '{"name": "Test", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"}, "training": ['
        + ",".join(
            f'{{"image": "./imagesTr/{name}.nii.gz", "label": "./labelsTr/{name}.nii.gz"}}'
            for name in ("good", "short", "shifted", "unnamed", "gone")
        )
        + "]}"
    )
    ingested = medsam3("ingest", str(source), "--cohort", "test", *IN_PROCESS, store=store, code=1)
    assert "1 accepted, 4 rejected" in ingested.stderr
    finished = medsam3(
        "benchmark", "--cohort", "test", "--weights", "baseline:box", "--prompt", "box", store=store, code=1
    )
    assert "4 rejected, 1 scored" in finished.stderr
    reasons = {
        str(row["case_id"]): str(row["reason"])
        for row in rows(store, "SELECT case_id, reason FROM failures WHERE run_id IS NOT NULL")
    }
    assert set(reasons) == {"short", "shifted", "unnamed", "gone"}
    assert all(name in reason for name, reason in reasons.items() if name != "shifted")
    assert "7" in reasons["unnamed"]
    board = rows(store, "SELECT planned, scored, failed FROM leaderboard")
    assert board == [{"planned": 5, "scored": 1, "failed": 4}]


def _write_pair(source: Path, name: str, *, label_shift: float = 0.0, value: int = 1) -> None:
    affine = np.diag([0.8, 0.8, 3.0, 1.0])
    image = np.zeros((20, 18, 6), dtype=np.int16)
    label = np.zeros_like(image)
    label[5:12, 4:11, 1:4] = value
    image[label > 0] = 100
    nib.save(nib.Nifti1Image(image, affine), source / "imagesTr" / f"{name}.nii.gz")
    affine[0, 3] += label_shift
    nib.save(nib.Nifti1Image(label, affine), source / "labelsTr" / f"{name}.nii.gz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--cohort", "none", "--weights", "baseline:box", "--prompt", "box"),
            "unknown cohort 'none'; known: ct",
        ),
        (("--cohort", "ct", "--weights", "best", "--prompt", "box"), "unknown weights 'best'; known: baseline:box"),
        (("--cohort", "ct", "--weights", "baseline:box", "--prompt", "circle"), "circle"),
        (
            ("--cohort", "ct", "--weights", "baseline:box", "--prompt", "text"),
            "nothing to run: baseline:box does not accept",
        ),
        (("--cohort", "ct", "--weights", "baseline:box", "--prompt", "box", "--structure", "toe"), "unknown structure"),
        (("--cohort", "ct", "--weights", "baseline:box", "--prompt", "box", "--set", "speed=1"), "unknown setting"),
        (("--cohort", "ct", "--weights", "baseline:box", "--prompt", "box", "--split", "dev"), "has no split 'dev'"),
    ],
)
def test_wrong_names_end_with_code_2_and_list_what_exists(
    benchmarked: Path, medsam3: Medsam3, arguments: tuple[str, ...], message: str
) -> None:
    finished = medsam3("benchmark", *arguments, store=benchmarked, code=2)
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_store_that_cannot_be_written_is_named(medsam3: Medsam3, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    finished = medsam3("ingest", "phantom:ct,cases=1", "--cohort", "ct", store=tmp_path / "file" / "store", code=2)
    assert "is not writable" in finished.stderr


def test_a_changed_image_is_read_again_and_only_that_case(medsam3: Medsam3, tmp_path: Path) -> None:
    source, store = tmp_path / "pairs", tmp_path / "store"
    (source / "images").mkdir(parents=True)
    (source / "masks").mkdir()
    for index in range(3):
        Image.fromarray(np.full((20, 30, 3), 40 * index, np.uint8)).save(source / "images" / f"case{index}.png")
        mask = np.zeros((20, 30), np.uint8)
        mask[5:10, 5:15] = 255
        Image.fromarray(mask).save(source / "masks" / f"case{index}.png")
    ingest = ("ingest", str(source), "--cohort", "pairs", *IN_PROCESS)
    benchmark = ("benchmark", "--cohort", "pairs", "--weights", "baseline:box", "--prompt", "box", *IN_PROCESS)
    medsam3(*ingest, store=store)
    medsam3(*benchmark, store=store)
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(source / "images" / "case1.png")
    assert "1 accepted, 0 rejected, 2 unchanged" in medsam3(*ingest, store=store).stderr
    assert "computed 1 scored; 2 results" in medsam3(*benchmark, store=store).stderr


def test_asking_for_another_structure_keeps_the_scores_of_the_first(medsam3: Medsam3, tmp_path: Path) -> None:
    store = tmp_path / "store"
    medsam3("ingest", "phantom:fundus,cases=2,size=1x64x64", "--cohort", "fundus", *IN_PROCESS, store=store)
    command = ("benchmark", "--cohort", "fundus", "--weights", "baseline:box", "--prompt", "box", "--split", "all")
    for structure in ("vessel", "optic_disc"):
        medsam3(*command, "--structure", structure, *IN_PROCESS, store=store)
    scored = rows(store, "SELECT structure, count(*) AS n FROM scores WHERE status = 'scored' GROUP BY ALL ORDER BY 1")
    assert scored == [{"structure": "optic_disc", "n": 2}, {"structure": "vessel", "n": 2}]
    assert "nothing to compute" in medsam3(*command, "--structure", "vessel", store=store).stderr
