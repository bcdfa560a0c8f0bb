import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel

from medsam3_core.cases.cases import CaseVolume
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.structures import LabelEntry, LabelMap
from medsam3_core.errors import StoreError
from medsam3_core.phantoms import PhantomKind, phantom_case
from storage.cohorts.volumes import open_case_volume, write_case_volume
from storage.store.arrays import level_factors

OBLIQUE = np.array(
    [[0.68, -0.123456789, 0.9, -90.25], [0.3, 0.7, -0.2, 126.1], [-0.11, 0.23, 4.7, -72.77], [0, 0, 0, 1]]
)


def labelled(shape_zyx: tuple[int, int, int], geometry: VolumeGeometry, rater: str = "reference") -> LabelMap:
    voxels = np.zeros(shape_zyx, np.uint8)
    voxels[0, :2, :3] = 1
    voxels[-1, 2:, 3:] = 2
    entries = (LabelEntry(1, "tumour"), LabelEntry(1, "core"), LabelEntry(2, "tumour"))
    return LabelMap(voxels, geometry, entries, rater)


def volume_of(shape_zyx: tuple[int, int, int], *, raters: tuple[str, ...] = ("reference",)) -> CaseVolume:
    geometry = VolumeGeometry.from_nifti(shape_zyx, OBLIQUE)
    voxels = np.arange(np.prod(shape_zyx), dtype=np.int16).reshape(shape_zyx)
    references = tuple(labelled(shape_zyx, geometry, rater) for rater in raters)
    return CaseVolume(voxels, geometry, references, "CT", OBLIQUE, {"file": "a.nii.gz"})


@pytest.mark.parametrize("name", ["scan.ome.zarr", "scan.ozx"])
def test_volumes_are_valid_for_foreign_models_of_the_format(tmp_path: Path, name: str) -> None:
    write_case_volume(tmp_path / name, "scan", volume_of((3, 8, 9)))
    group = open_case_volume(tmp_path / name).group
    image = Image.from_zarr(group)
    assert [axis.name for axis in image.ome_attributes.multiscales[0].axes] == ["z", "y", "x"]
    assert image.labels is not None
    ImageLabel.from_zarr(group["labels/reference"])


@pytest.mark.parametrize("kind", list(PhantomKind))
def test_every_kind_of_phantom_comes_back_bit_by_bit(tmp_path: Path, kind: PhantomKind) -> None:
    volume = phantom_case(kind, 2)
    path = tmp_path / "case.ozx"
    write_case_volume(path, "case", volume)
    stored = open_case_volume(path)
    np.testing.assert_array_equal(stored.voxels(), volume.voxels)
    assert stored.voxels().dtype == volume.voxels.dtype
    assert stored.geometry == volume.geometry
    reference = stored.reference("reference")
    np.testing.assert_array_equal(reference.voxels, volume.references[0].voxels)
    assert set(reference.entries) == set(volume.references[0].entries)
    Image.from_zarr(stored.group)


@pytest.mark.parametrize("name", ["scan.ome.zarr", "scan.ozx"])
def test_an_oblique_affine_survives_to_the_last_bit(tmp_path: Path, name: str) -> None:
    write_case_volume(tmp_path / name, "scan", volume_of((3, 8, 9)))
    assert (open_case_volume(tmp_path / name).nifti_affine == OBLIQUE).all()


def test_without_an_affine_of_the_source_the_geometry_gives_one(tmp_path: Path) -> None:
    geometry = VolumeGeometry.pixel_grid((1, 4, 5))
    write_case_volume(tmp_path / "x.ozx", "x", CaseVolume(np.zeros((1, 4, 5), np.uint8), geometry))
    stored = open_case_volume(tmp_path / "x.ozx")
    assert (stored.nifti_affine == np.eye(4)).all()
    assert stored.raters == ()


def test_colours_keep_their_channels_and_a_slice_has_them_first(tmp_path: Path) -> None:
    voxels = np.arange(3 * 6 * 7, dtype=np.uint8).reshape(3, 1, 6, 7)
    write_case_volume(tmp_path / "eye.ozx", "eye", CaseVolume(voxels, VolumeGeometry.pixel_grid((1, 6, 7))))
    stored = open_case_volume(tmp_path / "eye.ozx")
    assert stored.slice(0).shape == (3, 6, 7)
    np.testing.assert_array_equal(stored.slice(0), voxels[:, 0])
    image = Image.from_zarr(stored.group)
    assert image.ome_attributes.omero is not None
    assert [channel["label"] for channel in image.ome_attributes.omero["channels"]] == ["red", "green", "blue"]


def test_one_value_may_mean_several_structures(tmp_path: Path) -> None:
    write_case_volume(tmp_path / "x.ozx", "x", volume_of((2, 4, 6)))
    reference = open_case_volume(tmp_path / "x.ozx").reference("reference")
    assert reference.mask("core").sum() == 6
    assert reference.mask("tumour").sum() == 6 + 6


def test_every_rater_has_a_label_image_and_the_first_stays_first(tmp_path: Path) -> None:
    write_case_volume(tmp_path / "x.ozx", "x", volume_of((2, 4, 6), raters=("zoe", "anna")))
    stored = open_case_volume(tmp_path / "x.ozx")
    assert stored.raters == ("zoe", "anna")
    assert stored.reference("anna").rater == "anna"
    with pytest.raises(KeyError, match="bert"):
        stored.reference("bert")


def test_levels_halve_sides_above_256_only() -> None:
    assert level_factors((20, 256, 256)) == [(1, 1, 1)]
    assert level_factors((20, 512, 257)) == [(1, 1, 1), (1, 2, 2)]
    assert level_factors((1, 1024, 300)) == [(1, 1, 1), (1, 2, 2), (1, 4, 2)]


def test_levels_are_block_means_of_images_and_picked_voxels_of_labels(tmp_path: Path) -> None:
    voxels = np.tile(np.array([[0, 2], [4, 6]], np.int16), (1, 150, 130))
    geometry = VolumeGeometry.pixel_grid(voxels.shape)
    labels = LabelMap(np.tile(np.array([[7, 0], [0, 0]], np.uint8), (1, 150, 130)), geometry, (LabelEntry(7, "a"),))
    write_case_volume(tmp_path / "x.ozx", "x", CaseVolume(voxels, geometry, (labels,)))
    group = open_case_volume(tmp_path / "x.ozx").group
    assert group["1"].shape == (1, 150, 130)
    assert (group["1"][:] == 3).all()
    assert (group["labels/reference/1"][:] == 7).all()
    Image.from_zarr(group)


def test_one_slice_is_read_without_the_others(tmp_path: Path) -> None:
    path = tmp_path / "scan.ome.zarr"
    noise = np.random.default_rng(0).integers(-1000, 1000, (40, 64, 64)).astype(np.int16)
    write_case_volume(path, "scan", CaseVolume(noise, VolumeGeometry.pixel_grid(noise.shape)))
    stored = open_case_volume(path)
    read = _bytes_read_by(stored.group, lambda: stored.slice(7))
    np.testing.assert_array_equal(stored.slice(7), noise[7])
    whole = _bytes_read_by(stored.group, stored.voxels)
    assert 0 < read < whole / 20


def _bytes_read_by(group: zarr.Group, action) -> int:
    """Bytes that the store hands out while something reads."""
    store, read = group.store, 0
    original = store.get

    async def counted(*arguments, **options):
        nonlocal read
        answer = await original(*arguments, **options)
        read += len(answer.to_bytes()) if answer is not None else 0
        return answer

    object.__setattr__(store, "get", counted)
    try:
        action()
    finally:
        object.__delattr__(store, "get")
    return read


def test_a_zip_is_stored_uncompressed_with_its_root_first(tmp_path: Path) -> None:
    write_case_volume(tmp_path / "x.ozx", "x", volume_of((1, 4, 6)))
    with zipfile.ZipFile(tmp_path / "x.ozx") as archive:
        assert archive.infolist()[0].filename == "zarr.json"
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert json.loads(archive.comment)["ome"]["version"] == "0.5"


@pytest.mark.parametrize("name", ["absent.ozx", "absent.ome.zarr", "broken.ozx"])
def test_a_case_that_is_absent_or_damaged_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.ozx").write_bytes(b"PK not a zip")
    with pytest.raises(StoreError, match=f"cannot open .*{name}"):
        open_case_volume(tmp_path / name)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.ozx", "b.ozx"):
        write_case_volume(tmp_path / name, "x", volume_of((2, 4, 6)))
    assert (tmp_path / "a.ozx").read_bytes() == (tmp_path / "b.ozx").read_bytes()
