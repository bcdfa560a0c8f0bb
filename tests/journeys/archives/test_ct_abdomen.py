"""The real CT: 20 files without suffix or series UID, JPEG 2000, with a reference in another axis order."""

from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest

from medsam3_core.cases.cases import CaseVolume
from storage.cohorts.volumes import open_case_volume, write_case_volume
from storage.exports.dicom_seg import write_segmentation
from storage.sources.dicom.segmentations import read_segmentation
from storage.sources.registry import find_reader
from tests.listed_cases import cases_of_source

POINTS = 2000


@pytest.fixture(scope="module")
def source(shared_data: Path) -> Path:
    return shared_data / "ct_abdomen"


@pytest.fixture(scope="module")
def ct(source: Path, tmp_path_factory: pytest.TempPathFactory) -> CaseVolume:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSAM3_KEY_FILE", str(tmp_path_factory.mktemp("keys") / "patients.key"))
        layout, recipe = find_reader(str(source))
        assert (layout.name, recipe.modality, len(recipe.structures)) == ("archive", "CT", 31)
        (case,) = layout.list_cases(source, recipe)
        return layout.read_case(source, case, recipe)


def test_the_reference_lies_where_it_was_drawn_at_random_points(ct: CaseVolume, source: Path) -> None:
    stored = nib.load(source / "reference.nii.gz")
    labels = np.asanyarray(stored.dataobj)
    rng = np.random.default_rng(0)
    drawn = np.argwhere(labels > 0)
    anywhere = np.stack([rng.integers(0, size, POINTS) for size in labels.shape], axis=1)
    for index in (drawn[rng.integers(0, len(drawn), POINTS)], anywhere):
        world = stored.affine @ np.c_[index, np.ones(len(index))].T
        voxel = np.linalg.solve(np.asarray(ct.geometry.affine_zyx_to_ras_mm), world)[:3].T
        assert np.abs(voxel - np.rint(voxel)).max() < 1e-3
        z, y, x = np.rint(voxel).astype(int).T
        assert np.array_equal(ct.references[0].voxels[z, y, x], labels[tuple(index.T)])
    assert len(ct.references[0].present_structures()) == 31


def test_dicom_to_ome_zarr_to_dicom_segmentation_keeps_every_voxel(
    ct: CaseVolume, source: Path, tmp_path: Path
) -> None:
    write_case_volume(tmp_path / "ct.ome.zarr", "ct", ct)
    stored = open_case_volume(tmp_path / "ct.ome.zarr")
    assert np.array_equal(stored.voxels(), ct.voxels)
    reference = stored.reference("reference")
    masks = {name: reference.mask(name) for name in reference.present_structures()}
    layout, recipe = find_reader(str(source))
    (case,) = cases_of_source(str(source), recipe).values()
    write_segmentation(tmp_path / "seg.dcm", source, case, masks, {}, "nobody@1")
    segmentation = hd.seg.segread(tmp_path / "seg.dcm")
    places = [pydicom.dcmread(source / file, stop_before_pixels=True) for file in case.image]
    uids = [str(data.file_meta.MediaStorageSOPInstanceUID) for data in places]
    read = segmentation.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    for index, mask in enumerate(masks.values()):
        assert np.array_equal(read[..., index] > 0, mask)
    plain = pydicom.dcmread(tmp_path / "seg.dcm")
    assert int(plain.pixel_array.sum()) == sum(int(mask.sum()) for mask in masks.values())
    again = read_segmentation(tmp_path / "seg.dcm", stored.geometry, "again")
    assert all(np.array_equal(again.mask(name), mask) for name, mask in masks.items())
    assert layout.name == "archive"
