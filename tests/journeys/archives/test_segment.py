"""Segmentation without references: masks out in three formats, each proved, measured, resumed."""

import csv
import json
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset

from medsam3_core.cases.geometry import AffineUnit
from medsam3_core.errors import UnsupportedPromptError, UsageError
from storage.catalog.guard import run_sql
from storage.cohorts.cohorts import case_refs, latest_cases
from storage.cohorts.volumes import open_case_volume
from storage.exports.formats import nifti
from storage.exports.registry import ReleaseError
from storage.exports.releases import compare_masks
from storage.exports.segment_plan import SegmentRequest, require_out_apart
from storage.ingest.plan import IngestRequest, plan_ingest
from storage.store.layout import StoreLayout
from storage.store.locations import location
from tests.journeys.archives.segmented_here import segment_here
from tests.journeys.archives.test_archives import segmentation
from tests.journeys.archives.written_dicom import COLUMNS, ROWS, ct_slices, enhanced_ct, save
from tests.stores.small import ingest_here


def boxes_file(path: Path, case_id: str) -> Path:
    """Two structures that overlap on slices 2 and 3; `baseline:box` fills them."""
    lines = ["case_id,slice,structure,instance,kind,x0,y0,x1,y1"]
    lines += [f"{case_id},{z},liver,0,box,2,3,6,9" for z in (1, 2, 3)]
    lines += [f"{case_id},{z},cyst,0,box,4,5,8,10" for z in (2, 3, 4)]
    path.write_text("\n".join(lines) + "\n")
    return path


def expected_masks(depth: int = 6) -> dict[str, np.ndarray]:
    liver, cyst = np.zeros((depth, ROWS, COLUMNS), bool), np.zeros((depth, ROWS, COLUMNS), bool)
    liver[1:4, 3:9, 2:6] = True
    cyst[2:5, 5:10, 4:8] = True
    return {"liver": liver, "cyst": cyst}


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Path, list[FileDataset]]:
    slices = ct_slices(6, PatientName="Doe^Jane", PatientID="MRN-4711", PatientBirthDate="19610203")
    save(tmp_path / "archive" / "ct", slices, name=lambda z: f"{(z * 7) % 6}")
    return tmp_path / "archive", slices


def request(archive: Path, tmp_path: Path) -> SegmentRequest:
    (case_id,) = listed_ids(archive)
    return SegmentRequest(str(archive), "baseline:box", prompts=boxes_file(tmp_path / "boxes.csv", case_id))


def listed_ids(archive: Path) -> list[str]:
    from tests.journeys.archives.test_dicom_faults import listed

    return [case.case_id for case in listed(archive)[2]]


def test_a_nifti_label_map_has_the_affine_of_the_input(archive: tuple, store: StoreLayout, tmp_path: Path) -> None:
    run, counts, _ = segment_here(store, request(archive[0], tmp_path), tmp_path / "out")
    assert counts == {"segmented": 1}
    (file,) = (tmp_path / "out").glob("*.nii.gz")
    (case,) = case_refs(latest_cases(store, run.cohort))
    volume = open_case_volume(store.volume(run.cohort, case.case_id, zipped=False))
    image = nib.load(file)
    assert np.array_equal(image.affine, volume.nifti_affine.astype(np.float32))
    expected = expected_masks()
    assert np.array_equal(np.asarray(image.dataobj).T, np.where(expected["liver"], 1, expected["cyst"] * 2))


def test_a_dicom_segmentation_reads_the_same_with_other_readers(
    archive: tuple, store: StoreLayout, tmp_path: Path
) -> None:
    source, slices = archive
    _, counts, _ = segment_here(store, request(source, tmp_path), tmp_path / "out", "dicom-seg")
    assert counts == {"segmented": 1}
    (file,) = (tmp_path / "out").glob("*.dcm")
    segmentation = hd.seg.segread(file)
    uids = [data.SOPInstanceUID for data in slices]
    read = segmentation.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    for index, mask in enumerate(expected_masks().values()):
        assert np.array_equal(read[..., index] > 0, mask)
    plain = pydicom.dcmread(file)
    assert plain.SegmentationType == "BINARY"
    assert [item.SegmentLabel for item in plain.SegmentSequence] == ["liver", "cyst"]
    assert (plain.StudyInstanceUID, plain.PatientID) == (slices[0].StudyInstanceUID, "MRN-4711")
    assert {item.SeriesInstanceUID for item in plain.ReferencedSeriesSequence} == {slices[0].SeriesInstanceUID}
    referred = {item.ReferencedSOPInstanceUID for item in plain.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referred == set(uids)
    ones = sum(int(mask.sum()) for mask in expected_masks().values())
    assert int(plain.pixel_array.sum()) == ones


def test_an_anonymous_segmentation_names_nobody(archive: tuple, store: StoreLayout, tmp_path: Path) -> None:
    segment_here(store, request(archive[0], tmp_path), tmp_path / "out", "dicom-seg", anonymous=True)
    (file,) = (tmp_path / "out").glob("*.dcm")
    content = file.read_bytes()
    assert not any(word in content for word in (b"Doe", b"MRN-4711", b"19610203"))


def test_frames_of_a_multi_frame_source_are_referred_to_in_its_own_order(store: StoreLayout, tmp_path: Path) -> None:
    save(tmp_path / "archive", [enhanced_ct(6, order=[5, 0, 4, 1, 3, 2])])
    _, counts, _ = segment_here(store, request(tmp_path / "archive", tmp_path), tmp_path / "out", "dicom-seg")
    assert counts == {"segmented": 1}


def test_ome_zarr_keeps_structures_that_overlap(archive: tuple, store: StoreLayout, tmp_path: Path) -> None:
    import zarr

    segment_here(store, request(archive[0], tmp_path), tmp_path / "out", "zarr")
    (folder,) = (tmp_path / "out").glob("*.ome.zarr")
    labels = zarr.open_group(folder, mode="r")["labels"]
    for name, mask in expected_masks().items():
        assert np.array_equal(np.asarray(labels[f"{name}/0"]) > 0, mask)


def test_measurements_are_those_of_the_voxels(archive: tuple, store: StoreLayout, tmp_path: Path) -> None:
    run, _, _ = segment_here(store, request(archive[0], tmp_path), tmp_path / "out")
    rows = run_sql(store, f"SELECT * FROM measurements WHERE run_id = '{run.run_id}' ORDER BY structure").to_pylist()
    cyst, liver = rows
    assert liver["volume"] == pytest.approx(3 * 6 * 4 * 2.5 * 0.8 * 0.5 / 1000)
    assert [cyst[name] for name in ("z0", "y0", "x0", "z1", "y1", "x1")] == [2, 5, 4, 5, 10, 8]
    volume = open_case_volume(store.volume(run.cohort, liver["case_id"], zipped=False)).voxels()
    inside = volume[expected_masks()["liver"]]
    assert liver["intensity_mean"] == pytest.approx(inside.mean())
    assert liver["intensity_p95"] == pytest.approx(np.percentile(inside, 95))
    assert liver["volume_unit"] == "ml"


def test_what_is_done_is_not_done_again_and_what_changed_is(archive: tuple, store: StoreLayout, tmp_path: Path) -> None:
    source, slices = archive
    asked = request(source, tmp_path)
    assert segment_here(store, asked, tmp_path / "out")[2] == 1
    (file,) = (tmp_path / "out").glob("*.nii.gz")
    before = file.stat().st_mtime_ns
    assert segment_here(store, asked, tmp_path / "out")[2] == 0
    assert file.stat().st_mtime_ns == before
    file.unlink()
    assert segment_here(store, asked, tmp_path / "out")[1:] == ({"segmented": 1}, 0)
    assert file.exists()
    slices[0].RescaleIntercept = -1000
    for data in slices:
        data.RescaleIntercept = -1000
    save(source / "ct", slices, name=lambda z: f"{(z * 7) % 6}")
    assert segment_here(store, asked, tmp_path / "out")[2] == 1
    assert run_sql(store, "SELECT count(*) AS n FROM measurements").to_pylist() == [{"n": 2}]


def test_a_new_reference_in_the_archive_changes_nothing(archive: tuple, store: StoreLayout, tmp_path: Path) -> None:
    source, slices = archive
    asked = request(source, tmp_path)
    assert segment_here(store, asked, tmp_path / "out")[2] == 1
    masks = np.zeros((6, ROWS, COLUMNS, 1), np.uint8)
    masks[2, 3:5, 3:5] = 1
    segmentation(slices, masks, ["spleen"]).save_as(source / "seg.dcm")
    (source / "labels.json").write_text('{"labels": {"1": "kidney"}}')
    plan = plan_ingest(store, IngestRequest(str(source), asked.cohort, reader="archive"), with_references=False)
    assert [item.name for item in plan.cohort.recipe.structures] == ["kidney", "spleen"]
    assert (plan.pending, plan.unchanged) == ((), 1)
    assert segment_here(store, asked, tmp_path / "out")[2] == 0


def test_what_is_ingested_with_references_is_read_again_when_they_change(
    archive: tuple, store: StoreLayout, tmp_path: Path
) -> None:
    source, _ = archive
    ingest_here(store, str(source), "all")
    (source / "labels.json").write_text('{"labels": {"1": "kidney"}}')
    assert len(ingest_here(store, str(source), "all").pending) == 1


@pytest.mark.parametrize("out", ["archive", "archive/out", "elsewhere/../archive/out"])
def test_answers_are_not_written_into_the_source(tmp_path: Path, out: str) -> None:
    with pytest.raises(UsageError, match=rf"--out {tmp_path / out} lies in the source {tmp_path / 'archive'}"):
        require_out_apart(str(tmp_path / "archive"), tmp_path / out)
    require_out_apart(str(tmp_path / "archive"), tmp_path / "archive-out")
    require_out_apart("phantom:ct", tmp_path / out)
    require_out_apart("s3://bucket/archive", location("s3://bucket/archive-out"))
    with pytest.raises(UsageError, match="s3://bucket/archive/out lies in the source s3://bucket/archive,"):
        require_out_apart("s3://bucket/archive", location("s3://bucket/archive/out"))


@pytest.mark.parametrize("what", ["vanished", "changed"])
def test_nothing_refers_to_instances_that_are_not_those_that_were_segmented(
    archive: tuple, store: StoreLayout, tmp_path: Path, what: str
) -> None:
    source, slices = archive
    file = source / "ct" / "0"
    content = file.read_bytes()

    def spoil() -> None:
        file.unlink()
        if what == "changed":
            slices[0].SOPInstanceUID = slices[0].file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
            slices[0].save_as(file, enforce_file_format=True)

    asked = request(source, tmp_path)
    _, counts, done = segment_here(store, asked, tmp_path / "out", "dicom-seg", meanwhile=spoil)
    assert (counts, done) == ({"unreleased": 1}, 1)
    assert "are missing or have changed since they were read" in (tmp_path / "out" / "manifest.csv").read_text()
    assert not list((tmp_path / "out").glob("*.dcm"))
    file.write_bytes(content)
    assert segment_here(store, asked, tmp_path / "out", "dicom-seg")[1] == {"segmented": 1}


def test_every_case_of_an_archive_is_accounted_for(store: StoreLayout, tmp_path: Path) -> None:
    source = tmp_path / "archive"
    save(source / "good", ct_slices(4))
    broken = ct_slices(6)
    del broken[2]
    save(source / "broken", broken)
    nib.save(nib.Nifti1Image(np.zeros((8, 9, 4), np.int16), np.diag([1, 1, 2, 1])), source / "volume.nii.gz")
    text = SegmentRequest(str(source), "tiny-untrained", texts=("liver", "left kidney"))
    run, counts, done = segment_here(store, text, tmp_path / "out")
    assert run.structures == ("liver", "left_kidney")
    assert done == 2
    assert counts["segmented"] == 2
    with (tmp_path / "out" / "manifest.csv").open() as handle:
        rows = {row["case_id"]: row for row in csv.DictReader(handle)}
    assert sum(bool(row["file"]) for row in rows.values()) == 2
    assert run_sql(store, "SELECT count(*) AS n FROM measurements").to_pylist() == [{"n": 4}]


def test_a_source_that_is_no_dicom_is_not_released_as_dicom(store: StoreLayout, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((8, 9, 4), np.int16), np.eye(4)), tmp_path / "a" / "v.nii.gz")
    asked = SegmentRequest(str(tmp_path / "a"), "tiny-untrained", texts=("liver",))
    assert segment_here(store, asked, tmp_path / "out", "dicom-seg")[1] == {"unreleased": 1}
    assert "not a DICOM series" in (tmp_path / "out" / "manifest.csv").read_text()
    assert not list((tmp_path / "out").glob("*.dcm"))


@pytest.fixture(params=["mm", "micron", "meter", "unknown"])
def measured(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[SegmentRequest, str, np.ndarray]:
    """A NIfTI of oblique voxels of 2 x 0.5 x 0.5 mm whose header is in one of the units; the unit and its affine."""
    unit = request.param
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    affine[:3, 3] = (-30.0, 12.0, 7.0)
    affine[0, 1] = 0.25
    affine[:3] /= {"micron": 0.001, "meter": 1000.0}.get(unit, 1.0)
    image = nib.Nifti1Image(np.arange(8 * 9 * 4, dtype=np.int16).reshape(8, 9, 4), affine)
    image.header.set_xyzt_units(unit)
    (tmp_path / "a").mkdir()
    nib.save(image, tmp_path / "a" / "v.nii.gz")
    prompts = tmp_path / "boxes.csv"
    prompts.write_text("case_id,slice,structure,instance,kind,x0,y0,x1,y1\nv,2,liver,0,box,1,2,5,6\n")
    return SegmentRequest(str(tmp_path / "a"), "baseline:box", prompts=prompts), unit, affine


def test_a_label_map_has_numbers_and_unit_of_its_source(measured: tuple, store: StoreLayout, tmp_path: Path) -> None:
    asked, unit, affine = measured
    run, counts, _ = segment_here(store, asked, tmp_path / "out")
    assert counts == {"segmented": 1}

    def require_place() -> None:
        written = nib.load(tmp_path / "out" / "v.nii.gz")
        assert written.header.get_xyzt_units()[0] == ("mm" if unit == "unknown" else unit)
        assert np.array_equal(written.affine, affine.astype(np.float32))
        assert written.header["qform_code"] == 0

    require_place()
    (row,) = run_sql(store, f"SELECT volume FROM measurements WHERE run_id = '{run.run_id}'").to_pylist()
    assert row["volume"] == pytest.approx(16 * 2.0 * 0.5 * 0.5 / 1000)
    root = store.volume(run.cohort, "v", zipped=False) / "zarr.json"
    content = json.loads(root.read_text())
    del content["attributes"]["nifti"]["unit"]  # as stores were written before units were kept
    root.write_text(json.dumps(content))
    (tmp_path / "out" / "v.nii.gz").unlink()
    assert segment_here(store, asked, tmp_path / "out")[1] == {"segmented": 1}
    require_place()


def test_another_unit_in_the_file_is_not_released(
    archive: tuple, store: StoreLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_of = nifti.nifti_image

    def in_metres(values: np.ndarray, affine: np.ndarray, unit: AffineUnit | None) -> nib.Nifti1Image:
        image = image_of(values, affine, unit)
        image.header.set_xyzt_units(xyz="meter")
        return image

    monkeypatch.setattr(nifti, "nifti_image", in_metres)
    assert segment_here(store, request(archive[0], tmp_path), tmp_path / "out")[1] == {"unreleased": 1}
    assert "the unit meter is not that of the input, mm" in (tmp_path / "out" / "manifest.csv").read_text()


def test_a_file_that_reads_back_differently_is_not_released() -> None:
    from medsam3_core.cases.geometry import VolumeGeometry

    mask = np.zeros((2, 3, 4), bool)
    mask[1, 1, 1] = True
    here = VolumeGeometry.from_nifti((2, 3, 4), np.diag([1.0, 1, 2, 1]))
    moved = VolumeGeometry.from_nifti((2, 3, 4), np.array([[1.0, 0, 0, 5], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]))
    assert compare_masks(["a"], lambda _: mask, here, lambda _: mask, here, "x") == 0
    with pytest.raises(ReleaseError, match="1 other voxels"):
        compare_masks(["a"], lambda _: mask, here, lambda _: np.zeros_like(mask), here, "x")
    with pytest.raises(ReleaseError, match=r"lies 5\.000 mm away"):
        compare_masks(["a"], lambda _: mask, here, lambda _: mask, moved, "x")


def test_requests_that_make_no_sense_are_refused(archive: tuple, store: StoreLayout, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give either --text"):
        SegmentRequest("x", "baseline:box")
    with pytest.raises(UnsupportedPromptError, match="baseline:box does not accept text prompts"):
        segment_here(store, SegmentRequest(str(archive[0]), "baseline:box", texts=("liver",)), tmp_path / "out")
    wrong = boxes_file(tmp_path / "wrong.csv", "nobody")
    with pytest.raises(UsageError, match=r"row 1 of the prompts: no case 'nobody'; there are: "):
        segment_here(store, SegmentRequest(str(archive[0]), "baseline:box", prompts=wrong), tmp_path / "out")
