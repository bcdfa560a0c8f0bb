"""Whole trees in one walk: DICOM in every syntax, NIfTI, images; references matched in space; links and odd files."""

import io
import os
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.sr.coding import Code
from pydicom.uid import JPEGLSLossless, RLELossless, generate_uid

from medsam3_core.cases.cases import CaseVolume
from storage.sources.registry import find_reader
from tests.journeys.archives.test_dicom_faults import listed, volumes
from tests.journeys.archives.written_dicom import COLUMNS, ROWS, ct_slices, enhanced_ct, save, stored_voxels

HOUNSFIELD = stored_voxels(6).astype(np.int16) - 1024


def only_volume(source: Path) -> CaseVolume:
    (volume,) = volumes(source)
    return volume


def test_slices_are_put_in_the_order_of_their_positions_under_any_name(tmp_path: Path) -> None:
    save(tmp_path / "a", ct_slices(6), name=lambda z: ["zz", "a.b.1", "10.nii.gz", "9.jpg", "x y.txt", "Ä"][z])
    volume = only_volume(tmp_path / "a")
    assert np.array_equal(volume.voxels, HOUNSFIELD)
    assert volume.voxels.dtype == np.int16
    assert volume.modality == "CT"
    expected = [[-0.5, 0, 0, 30], [0, -0.8, 0, 40], [0, 0, 2.5, 100], [0, 0, 0, 1]]
    assert np.allclose(volume.geometry.affine_nifti, expected)


def test_an_archive_of_which_every_file_is_named_as_something_else_is_known_by_its_content(tmp_path: Path) -> None:
    save(tmp_path / "a", ct_slices(6), name=lambda z: f"{z}.png")
    assert np.array_equal(only_volume(tmp_path / "a").voxels, HOUNSFIELD)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_syntaxes_give_the_same_voxels(tmp_path: Path, syntax: str) -> None:
    slices = ct_slices(6)
    for data in slices:
        data.compress(syntax, generate_instance_uid=False)
    save(tmp_path / "a", slices)
    assert np.array_equal(only_volume(tmp_path / "a").voxels, HOUNSFIELD)


def test_frames_of_one_file_are_put_in_the_order_of_their_positions(tmp_path: Path) -> None:
    save(tmp_path / "a", [enhanced_ct(5, order=[3, 0, 4, 1, 2])])
    volume = only_volume(tmp_path / "a")
    assert np.array_equal(volume.voxels, stored_voxels(5).astype(np.int16) - 1024)
    assert volume.geometry.spacing_zyx == pytest.approx((2.5, 0.8, 0.5))


@pytest.mark.parametrize("undefined", [False, True])
def test_an_only_frame_lies_where_its_functional_groups_say(tmp_path: Path, undefined: bool) -> None:
    data = enhanced_ct(1)
    data["PerFrameFunctionalGroupsSequence"].is_undefined_length = undefined
    save(tmp_path / "a", [data])
    volume = only_volume(tmp_path / "a")
    assert np.array_equal(volume.voxels, stored_voxels(1).astype(np.int16) - 1024)
    expected = [[-0.5, 0, 0, 30], [0, -0.8, 0, 40], [0, 0, 5, 100], [0, 0, 0, 1]]
    assert np.allclose(volume.geometry.affine_nifti, expected)


def test_files_of_one_frame_each_are_one_series(tmp_path: Path) -> None:
    files = [enhanced_ct(1) for _ in range(4)]
    for z, data in enumerate(files):
        data.SeriesInstanceUID = files[0].SeriesInstanceUID
        data.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[2] += 2.5 * z
        data.PixelData = stored_voxels(4)[z].tobytes()
    save(tmp_path / "a", files, name=lambda z: str((z + 2) % 4))
    volume = only_volume(tmp_path / "a")
    assert np.array_equal(volume.voxels, stored_voxels(4).astype(np.int16) - 1024)
    assert volume.geometry.spacing_zyx == pytest.approx((2.5, 0.8, 0.5))


def test_a_rescale_beside_the_functional_groups_holds_for_all_frames(tmp_path: Path) -> None:
    data = enhanced_ct(5)
    del data.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    data.RescaleSlope, data.RescaleIntercept = 2, -1024
    save(tmp_path / "a", [data])
    assert np.array_equal(only_volume(tmp_path / "a").voxels, stored_voxels(5) * 2.0 - 1024)


def test_a_frame_that_is_missing_is_named(tmp_path: Path) -> None:
    spoilt = enhanced_ct(5)
    spoilt.PerFrameFunctionalGroupsSequence[4].PlanePositionSequence[0].ImagePositionPatient[2] += 2.5
    save(tmp_path / "a", [spoilt])
    assert str(listed(tmp_path / "a")[2][0].reject_reason).startswith("missing-slice: 1 of 6")


def test_monochrome1_is_mirrored_so_that_bright_is_high(tmp_path: Path) -> None:
    save(tmp_path / "a", ct_slices(6, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(only_volume(tmp_path / "a").voxels, 4095 - stored_voxels(6).astype(np.int16) - 1024)


def test_radiographs_without_position_are_images_of_their_own(tmp_path: Path) -> None:
    slices = ct_slices(2, Modality="DX", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1")
    for data in slices:
        del data.ImagePositionPatient
        del data.ImageOrientationPatient
    del slices[1].PixelSpacing
    save(tmp_path / "a", slices)
    first, second = volumes(tmp_path / "a")
    assert first.geometry.is_2d
    assert first.geometry.spacing_zyx[1:] == pytest.approx((0.8, 0.5))
    assert (str(first.geometry.unit), str(second.geometry.unit)) == ("mm", "px")


def test_one_walk_finds_dicom_nifti_and_images(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    save(root / "p1" / "CT", ct_slices(6))
    nib.save(nib.Nifti1Image(np.zeros((5, 6, 7), np.int16), np.eye(4)), root / "p2.nii.gz")
    Image.fromarray(np.full((8, 9), 7, np.uint8)).save(root / "p3.png")
    (root / "README.txt").write_text("not a case")
    (root / "p1" / "LICENSE").write_text("not a case")
    assert sorted(volume.voxels.shape for volume in volumes(root)) == [(1, 8, 9), (6, ROWS, COLUMNS), (7, 6, 5)]


def test_nifti_and_images_without_dicom_are_an_archive_when_asked_for(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((5, 6, 7), np.int16), np.eye(4)), tmp_path / "p2.nii.gz")
    Image.fromarray(np.full((8, 9), 7, np.uint8)).save(tmp_path / "p3.png")
    layout, recipe = find_reader(str(tmp_path), "archive")
    assert [case.case_id[:2] for case in layout.list_cases(tmp_path, recipe)] == ["p2", "p3"]


def test_files_that_differ_in_their_suffix_alone_are_cases_of_their_own(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((5, 6, 7), np.int16), np.eye(4)), tmp_path / "p.nii.gz")
    for suffix in ("jpg", "png"):
        Image.fromarray(np.full((8, 9), 7, np.uint8)).save(tmp_path / f"p.{suffix}")
    layout, recipe = find_reader(str(tmp_path), "archive")
    cases = layout.list_cases(tmp_path, recipe)
    assert [(case.case_id, case.image[0], case.reject_reason) for case in cases] == [
        ("p", "p.jpg", None), ("p.nii.gz", "p.nii.gz", None), ("p.png", "p.png", None)
    ]  # fmt: skip


@pytest.mark.parametrize("axes", ["LAS", "RAS", "PIR"])
def test_a_nifti_reference_in_another_order_lies_where_it_was_drawn(tmp_path: Path, axes: str) -> None:
    save(tmp_path / "a" / "dicom", ct_slices(6))
    (tmp_path / "a" / "labels.json").write_text('{"labels": {"1": "spleen", "2": "liver"}}')
    affine = only_volume_affine(tmp_path / "a")
    drawn = np.random.default_rng(1).integers(0, 3, (COLUMNS, ROWS, 6)).astype(np.uint8)
    image = nib.Nifti1Image(drawn, affine)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(axes))
    )
    nib.save(image.as_reoriented(turn), tmp_path / "a" / "reference.nii.gz")
    (volume,) = volumes(tmp_path / "a")
    assert np.array_equal(volume.references[0].voxels, drawn.T)
    assert volume.references[0].present_structures() == ("liver", "spleen")


def only_volume_affine(source: Path) -> np.ndarray:
    layout, recipe, cases = listed(source)
    return layout.read_case(source, cases[0], recipe).geometry.affine_nifti


def test_a_nifti_reference_on_another_grid_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a" / "dicom", ct_slices(6))
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.diag([3, 3, 3, 1])), tmp_path / "a" / "labels.nii.gz")
    layout, recipe, cases = listed(tmp_path / "a")
    with pytest.raises(Exception, match=r"labels\.nii\.gz: the grid .* does not coincide"):
        layout.read_case(tmp_path / "a", cases[0], recipe)


def test_a_dicom_segmentation_is_the_reference_of_the_series_that_it_names(tmp_path: Path) -> None:
    slices = ct_slices(6)
    save(tmp_path / "a" / "CT", slices)
    save(tmp_path / "a" / "other", ct_slices(4, seed=9))
    masks = np.zeros((6, ROWS, COLUMNS, 2), np.uint8)
    masks[1:3, 2:5, 3:7, 0] = 1
    masks[2:4, 4:8, 5:9, 1] = 1
    segmentation(slices, masks, ["Left kidney", "cyst"]).save_as(tmp_path / "a" / "seg.dcm")
    layout, recipe, cases = listed(tmp_path / "a")
    assert [item.name for item in recipe.structures] == ["Left_kidney", "cyst"]
    read = [layout.read_case(tmp_path / "a", case, recipe) for case in cases]
    (volume,) = [item for item in read if item.references]
    assert volume.voxels.shape[0] == 6
    assert np.array_equal(volume.references[0].mask("Left_kidney"), masks[..., 0] > 0)
    assert np.array_equal(volume.references[0].mask("cyst"), masks[..., 1] > 0)


def segmentation(slices: list, masks: np.ndarray, names: list[str]) -> hd.seg.Segmentation:
    code = Code("123037004", "SCT", "Anatomical Structure")
    algorithm = hd.AlgorithmIdentificationSequence("by hand", code, "1")
    described = [
        hd.seg.SegmentDescription(number, name, code, code, "AUTOMATIC", algorithm_identification=algorithm)
        for number, name in enumerate(names, start=1)
    ]
    return hd.seg.Segmentation(
        slices, masks, "BINARY", described, generate_uid(), 9, generate_uid(), 1, "nobody", "none", "1", "1"
    )


def test_links_in_a_circle_end_and_no_folder_is_walked_twice(tmp_path: Path) -> None:
    save(tmp_path / "a" / "CT", ct_slices(6))
    (tmp_path / "a" / "b").mkdir()
    (tmp_path / "a" / "b" / "to-ct").symlink_to(tmp_path / "a" / "CT")
    (tmp_path / "a" / "CT" / "to-b").symlink_to(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "b" / "nowhere").symlink_to(tmp_path / "absent")
    assert len(volumes(tmp_path / "a")) == 1


def test_pipes_do_not_block_a_walk(tmp_path: Path) -> None:
    save(tmp_path / "a", ct_slices(6))
    os.mkfifo(tmp_path / "a" / "pipe.dcm")
    assert len(volumes(tmp_path / "a")) == 1


def test_ten_thousand_slices_are_one_case(tmp_path: Path) -> None:
    (first,) = ct_slices(1, Rows=4, Columns=4, PixelData=bytes(32), ImagePositionPatient=["7", "0", "123456.5"])
    buffer = io.BytesIO()
    first.save_as(buffer, enforce_file_format=True)
    (tmp_path / "a").mkdir()
    for z in range(10_000):
        (tmp_path / "a" / f"{z}").write_bytes(buffer.getvalue().replace(b"123456.5", f"{z * 0.5:8.1f}".encode()))
    (case,) = listed(tmp_path / "a")[2]
    assert case.reject_reason is None
    assert case.image[:3] == ("0", "1", "2")
    assert len(case.image) == 10_000
