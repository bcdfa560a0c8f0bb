"""Faults of archives: each is rejected under its own name, and no voxel is read wrongly."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.series_geometry import SeriesFault, SeriesRejectedError
from storage.sources.listing.layout import Layout
from storage.sources.registry import find_reader
from tests.journeys.archives.written_dicom import GAP_MM, ORIGIN, ct_slices, save, stored_voxels


def listed(source: Path) -> tuple[Layout, Recipe, list[CaseSource]]:
    layout, recipe = find_reader(str(source))
    assert layout.name == "archive"
    return layout, recipe, layout.list_cases(source, recipe)


def volumes(source: Path) -> list[CaseVolume]:
    layout, recipe, cases = listed(source)
    assert [case.reject_reason for case in cases] == [None] * len(cases)
    return [layout.read_case(source, case, recipe) for case in cases]


def only_reason(source: Path) -> str:
    _, _, cases = listed(source)
    assert len(cases) == 1
    assert cases[0].reject_reason is not None
    return cases[0].reject_reason


def without_a_slice(slices: list[FileDataset]) -> None:
    del slices[2]


def with_a_slice_twice(slices: list[FileDataset]) -> None:
    copy = ct_slices(6)[2]
    copy.SeriesInstanceUID, copy.InstanceNumber = slices[0].SeriesInstanceUID, 99
    slices.append(copy)


def with_a_named_scout(slices: list[FileDataset]) -> None:
    slices[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def with_a_slice_across(slices: list[FileDataset]) -> None:
    slices[0].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def tilted(slices: list[FileDataset]) -> None:
    for z, data in enumerate(slices):
        data.ImagePositionPatient = [ORIGIN[0], ORIGIN[1] + 0.5 * z, ORIGIN[2] + GAP_MM * z]


def without_position(slices: list[FileDataset]) -> None:
    for data in slices:
        del data.ImagePositionPatient


def half_turned(slices: list[FileDataset]) -> None:
    for data in slices[:3]:
        data.ImageOrientationPatient = [0.98, 0.199, 0, -0.199, 0.98, 0]


def with_an_odd_size(slices: list[FileDataset]) -> None:
    slices[1].Rows, slices[1].PixelData = 6, slices[1].PixelData[: len(slices[1].PixelData) // 2]


def with_an_odd_spacing(slices: list[FileDataset]) -> None:
    slices[1].PixelSpacing = [0.9, 0.5]


def unevenly_spaced(slices: list[FileDataset]) -> None:
    slices[3].ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + GAP_MM * 3.3]


FAULTS: list[tuple[Callable[[list[FileDataset]], None], SeriesFault, str]] = [
    (without_a_slice, SeriesFault.MISSING_SLICE, r"1 of 6 slices are missing.*5\.000 mm where 2\.500 mm"),
    (with_a_slice_twice, SeriesFault.DUPLICATE_SLICE, "IM0002 and .*IM0006 lie at the same place"),
    (with_a_named_scout, SeriesFault.SCOUT, "IM0000 is a localizer"),
    (with_a_slice_across, SeriesFault.SCOUT, "IM0000 has the orientation .* across the others"),
    (tilted, SeriesFault.TILT, r"shift by up to 2\.50 mm across their normal \(11\.3 degrees"),
    (without_position, SeriesFault.NO_POSITION, "IM0000 has no usable ImagePositionPatient"),
    (half_turned, SeriesFault.MIXED_ORIENTATION, "3 of 6 slices have"),
    (with_an_odd_size, SeriesFault.MIXED_SIZE, r"IM0001 has \(6, 10\) rows and columns"),
    (with_an_odd_spacing, SeriesFault.MIXED_SPACING, "IM0001 has the PixelSpacing"),
    (unevenly_spaced, SeriesFault.UNEVEN_GAP, r"gaps run from 1\.750 to 3\.250 mm"),
]


@pytest.mark.parametrize("uids", ["with UIDs", "without UIDs"])
@pytest.mark.parametrize(("spoil", "fault", "detail"), FAULTS, ids=[item[0].__name__ for item in FAULTS])
def test_a_spoilt_series_is_rejected_by_the_name_of_its_fault(
    tmp_path: Path, spoil: Callable[[list[FileDataset]], None], fault: SeriesFault, detail: str, uids: str
) -> None:
    slices = ct_slices(6)
    spoil(slices)
    if uids == "without UIDs":
        for data in slices:
            data.SeriesInstanceUID = data.StudyInstanceUID = ""
            data.FrameOfReferenceUID = "1.2.3"
    save(tmp_path / "a" / "CT", slices)
    reason = only_reason(tmp_path / "a")
    assert reason.startswith(f"{fault}: ")
    assert re.search(detail, reason)


def test_two_series_in_one_folder_are_two_cases(tmp_path: Path) -> None:
    save(tmp_path / "a", ct_slices(4, seed=1), name=lambda z: f"one{z}")
    save(tmp_path / "a", ct_slices(5, seed=2), name=lambda z: f"two{z}")
    found = {volume.voxels.shape[0]: volume for volume in volumes(tmp_path / "a")}
    assert np.array_equal(found[4].voxels, stored_voxels(4, 1).astype(np.int16) - 1024)
    assert np.array_equal(found[5].voxels, stored_voxels(5, 2).astype(np.int16) - 1024)


def test_two_series_without_uids_in_one_folder_are_told_apart_by_geometry(tmp_path: Path) -> None:
    blank = {"SeriesInstanceUID": "", "StudyInstanceUID": "", "FrameOfReferenceUID": ""}
    save(tmp_path / "a", ct_slices(4, **blank), name=lambda z: f"one{z}")
    save(tmp_path / "a", ct_slices(5, PixelSpacing=[0.7, 0.7], **blank), name=lambda z: f"two{z}")
    assert sorted(volume.voxels.shape[0] for volume in volumes(tmp_path / "a")) == [4, 5]


def test_time_points_of_one_series_are_volumes_of_their_own(tmp_path: Path) -> None:
    slices = ct_slices(4, seed=1, TemporalPositionIdentifier=1)
    later = ct_slices(4, seed=2, TemporalPositionIdentifier=2, SeriesInstanceUID=slices[0].SeriesInstanceUID)
    save(tmp_path / "a", [*slices, *later])
    assert [volume.voxels.shape[0] for volume in volumes(tmp_path / "a")] == [4, 4]


def test_a_slope_per_slice_is_applied_slice_by_slice_in_float32(tmp_path: Path) -> None:
    slices = ct_slices(6)
    for z, data in enumerate(slices):
        data.RescaleSlope, data.RescaleIntercept = 0.5 + 0.25 * z, -7
    save(tmp_path / "a", slices)
    voxels = volumes(tmp_path / "a")[0].voxels
    assert voxels.dtype == np.float32
    for z in range(6):
        assert np.allclose(voxels[z], stored_voxels(6)[z] * (0.5 + 0.25 * z) - 7)


def test_a_file_that_ends_inside_its_pixels_rejects_its_series(tmp_path: Path) -> None:
    files = save(tmp_path / "a", ct_slices(6))
    files[3].write_bytes(files[3].read_bytes()[:-100])
    assert only_reason(tmp_path / "a").startswith("truncated-file: IM0003 holds 140 of 240 bytes of pixels")


def test_a_file_that_ends_inside_its_header_rejects_its_series(tmp_path: Path) -> None:
    files = save(tmp_path / "a", ct_slices(6))
    files[3].write_bytes(files[3].read_bytes()[:-400])
    assert only_reason(tmp_path / "a").startswith("truncated-file: IM0003 ends")


@pytest.mark.parametrize("content", [b"", b"no image at all, only words " * 20, bytes(300)])
def test_what_is_not_dicom_is_rejected_and_leaves_a_hole_that_is_named(tmp_path: Path, content: bytes) -> None:
    files = save(tmp_path / "a", ct_slices(6))
    files[3].write_bytes(content)
    _, _, cases = listed(tmp_path / "a")
    reasons = sorted(str(case.reject_reason) for case in cases)
    assert [reason.split(":")[0] for reason in reasons] == ["missing-slice", "not-dicom"]


def test_an_object_without_pixels_is_accounted_for(tmp_path: Path) -> None:
    report = ct_slices(1)[0]
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(report, keyword)
    save(tmp_path / "a", [report])
    assert only_reason(tmp_path / "a").startswith("no-pixels: ")


def test_sizes_that_no_machine_has_are_refused_before_they_are_believed(tmp_path: Path) -> None:
    bomb = ct_slices(1, Rows=65535, Columns=65535, NumberOfFrames=100_000)[0]
    bomb.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    bomb.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    bomb["PixelData"].is_undefined_length = True
    save(tmp_path / "a", [bomb])
    layout, recipe, cases = listed(tmp_path / "a")
    with pytest.raises(SeriesRejectedError, match=r"too-large: .* declares 8589\d\d\.\d+ GB of voxels"):
        layout.read_case(tmp_path / "a", replace(cases[0], reject_reason=None), recipe)
