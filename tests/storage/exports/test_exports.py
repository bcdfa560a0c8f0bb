from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import StoreError, UsageError
from storage.catalog.queries.leaderboard import read_leaderboard
from storage.cohorts.cohorts import latest_cases, write_cases
from storage.cohorts.volumes import open_case_volume
from storage.exports.label_maps import merge_structures
from storage.exports.runs import export_run, find_run
from storage.runs.predictions import PredictionWriter, open_prediction
from storage.runs.requests import BenchmarkRequest
from storage.store.atomic import read_json
from storage.store.layout import StoreLayout, utc_now
from storage.store.schemas import CASES
from storage.store.tables import read_table
from tests import DATA
from tests.stores.small import benchmark_here, ingest_here

CT_STRUCTURES = ("liver", "spleen", "kidney_left", "kidney_right", "aorta")


def run_of(store: StoreLayout, cohort: str, weights: str = "baseline:otsu") -> str:
    rows = read_leaderboard(store).to_pylist()
    return next(str(row["run_id"]) for row in rows if row["cohort"] == cohort and row["weights"] == weights)


def test_a_label_map_lies_where_the_source_does_in_the_order_of_nifti(phantom_run: StoreLayout, tmp_path: Path) -> None:
    written = export_run(phantom_run, run_of(phantom_run, "ct"), "nifti", ["ct_000"], tmp_path)
    assert [path.name for path, _ in written] == ["ct_000.nii.gz"]
    case = open_case_volume(phantom_run.volume("ct", "ct_000", zipped=False))
    image = nib.load(written[0][0])
    assert isinstance(image, nib.Nifti1Image)
    np.testing.assert_array_equal(image.affine, case.nifti_affine.astype(np.float32))
    assert image.shape == case.geometry.shape_zyx[::-1]
    assert image.header.get_xyzt_units()[0] == "mm"
    prediction = open_prediction(phantom_run.prediction(run_of(phantom_run, "ct"), "ct_000"))
    values = np.asarray(image.dataobj).transpose(2, 1, 0)
    for value, structure in enumerate(CT_STRUCTURES, start=1):
        assert not (values[prediction.labels(structure) == 0] == value).any()
    assert set(np.unique(values)) == {0, 1, 2, 3, 4, 5}


def test_labels_are_named_in_the_order_of_the_recipe(phantom_run: StoreLayout, tmp_path: Path) -> None:
    run_id = run_of(phantom_run, "ct")
    export_run(phantom_run, run_id, "nifti", ["ct_000"], tmp_path)
    content = read_json(tmp_path / "labels.json")
    assert content["labels"] == {"background": 0, **{name: i for i, name in enumerate(CT_STRUCTURES, start=1)}}
    assert content["run_id"] == run_id


def test_an_affine_of_the_source_comes_back_exactly(store: StoreLayout, tmp_path: Path) -> None:
    source = DATA / "Task04_Hippocampus"
    ingest_here(store, str(source), "hippocampus", limit=2)
    request = BenchmarkRequest(("hippocampus",), ("baseline:box",), ("box",), split="all")
    (run_id,) = benchmark_here(store, request).run_ids
    written = export_run(store, run_id, "nifti", [], tmp_path)
    assert len(written) == 2
    for path, _ in written:
        (original,) = source.glob(f"labels*/{path.name}")
        assert (nib.load(path).affine == nib.load(original).affine).all()
        assert nib.load(path).shape == nib.load(original).shape


def test_contested_voxels_go_to_the_higher_score_and_are_counted(tmp_path: Path) -> None:
    geometry = VolumeGeometry.pixel_grid((1, 1, 5))
    writer = PredictionWriter(geometry, ("a", "b", "c"), {})
    writer.add("a", np.array([[[1, 1, 2, 0, 0]]], np.uint16), (0.9, 0.2))
    writer.add("b", np.array([[[0, 1, 1, 1, 0]]], np.uint16), (0.5,))
    writer.add("c", np.array([[[0, 1, 0, 1, 0]]], np.uint16), (0.5,))
    writer.write(tmp_path / "x.ozx")
    values, contested = merge_structures(open_prediction(tmp_path / "x.ozx"), ("a", "b", "c"))
    assert values.tolist() == [[[1, 1, 2, 2, 0]]]  # b and c tie: the first of the recipe keeps the voxel
    assert contested == 3


def test_values_do_not_depend_on_what_a_case_holds(tmp_path: Path) -> None:
    writer = PredictionWriter(VolumeGeometry.pixel_grid((1, 1, 2)), ("b",), {})
    writer.add("b", np.array([[[0, 1]]], np.uint16), (0.5,))
    writer.write(tmp_path / "x.ozx")
    values, _ = merge_structures(open_prediction(tmp_path / "x.ozx"), ("a", "b"))
    assert values.tolist() == [[[0, 2]]]


@pytest.mark.parametrize("cohort", ["ct", "fundus"])
def test_an_overlay_shows_image_prediction_and_reference(phantom_run: StoreLayout, tmp_path: Path, cohort: str) -> None:
    ((path, _),) = export_run(phantom_run, run_of(phantom_run, cohort), "png", [f"{cohort}_000"], tmp_path)
    picture = np.asarray(Image.open(path))
    assert picture.shape[2] == 3
    assert (picture == (0, 200, 255)).all(axis=2).sum() > 100  # outline and legend of the first structure
    assert (picture == 255).all(axis=2).sum() > 100  # reference lines and text
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_beginning_of_a_run_id_is_enough_where_it_is_unique(phantom_run: StoreLayout) -> None:
    run_id = run_of(phantom_run, "ct")
    assert find_run(phantom_run, run_id[:8]).run_id == run_id
    with pytest.raises(UsageError, match=rf"unknown run 'nope'; the store has: .*{run_id} \(ct, baseline:otsu, box"):
        find_run(phantom_run, "nope")
    with pytest.raises(UsageError, match="run '' could be"):
        find_run(phantom_run, "")


def test_an_unknown_case_lists_those_with_a_prediction(phantom_run: StoreLayout, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no prediction of case 'x'; it has: fundus_000, fundus_001"):
        export_run(phantom_run, run_of(phantom_run, "fundus"), "png", ["x"], tmp_path)


@pytest.mark.parametrize("form", ["jpeg", "dicom-seg"])
def test_a_format_that_export_does_not_write_is_refused(phantom_run: StoreLayout, tmp_path: Path, form: str) -> None:
    with pytest.raises(UsageError, match=rf"unknown format '{form}'; medsam3 export writes: .*nifti, png"):
        export_run(phantom_run, run_of(phantom_run, "fundus"), form, [], tmp_path)


def test_label_maps_of_two_runs_do_not_share_a_folder(phantom_run: StoreLayout, tmp_path: Path) -> None:
    export_run(phantom_run, run_of(phantom_run, "ct"), "nifti", ["ct_000"], tmp_path)
    with pytest.raises(UsageError, match=r"labels\.json belongs to another export .* choose another --out"):
        export_run(phantom_run, run_of(phantom_run, "fundus"), "nifti", [], tmp_path)


def test_a_prediction_of_an_older_source_is_refused(store: StoreLayout, tmp_path: Path) -> None:
    ingest_here(store, "phantom:fundus,cases=1,size=48x48", "eyes")
    request = BenchmarkRequest(("eyes",), ("baseline:box",), ("box",), split="all")
    (run_id,) = benchmark_here(store, request).run_ids
    (row,) = read_table(store.cases("eyes"), CASES).to_pylist()
    write_cases(store, "eyes", [row | {"case_digest": "changed", "ingested_at": utc_now()}])
    assert latest_cases(store, "eyes")["case_digest"].tolist() == ["changed"]
    with pytest.raises(UsageError, match=r"'fundus_000' has changed since run .* run the same medsam3 benchmark"):
        export_run(store, run_id, "nifti", [], tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error(phantom_run: StoreLayout, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write .*labels\.json"):
        export_run(phantom_run, run_of(phantom_run, "ct"), "nifti", [], tmp_path / "file" / "below")
