import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own custom

from medsam3_core.errors import CaseDataError
from storage.sources.formats.volumes.registry import read_volume, slice_size, volume_geometry
from tests.storage.sources.itk_files import affine_by_itk, itk_image, write_itk
from tests.storage.sources.volume_files import AFFINE, IMAGE, check_read_everywhere

LPS = "space: left-posterior-superior"
PLACED = "space directions: (1.2,0,0) (0,0.8,0) (0,0,3)\nspace origin: (20,30,10)"


def by_hand(path: Path, *lines: str, voxels: bytes = IMAGE.tobytes(), endian: str = "little", sizes: str = "5 4 3"):
    """A header line by line: after what every file has, the lines given."""
    always = ("NRRD0004", "# by hand", "type: short", "dimension: 3", f"sizes: {sizes}", f"endian: {endian}")
    encoding = () if any(line.startswith("encoding") for line in lines) else ("encoding: raw",)
    path.write_bytes("\n".join((*always, *encoding, *lines, "", "")).encode() + voxels)
    return path


def test_nrrd_is_read_everywhere(tmp_path: Path) -> None:
    check_read_everywhere(tmp_path, ".nrrd", write_itk)


def test_an_oblique_volume_lies_where_simpleitk_puts_it(tmp_path: Path) -> None:
    write_itk(tmp_path / "a.nrrd", IMAGE, AFFINE)
    volume = read_volume(tmp_path / "a.nrrd")
    np.testing.assert_allclose(volume.affine, affine_by_itk(tmp_path / "a.nrrd"), atol=1e-6)
    geometry = volume_geometry(tmp_path / "a.nrrd")
    assert geometry is not None
    assert geometry.matches(volume.geometry)
    assert slice_size(tmp_path / "a.nrrd") == (5, 4)


@pytest.mark.parametrize(
    ("space", "signs"),
    [("left-posterior-superior", (-1, -1, 1)), ("RAS", (1, 1, 1)), ("left-anterior-superior", (-1, 1, 1))],
)
def test_every_anatomical_space_is_turned_to_ras(tmp_path: Path, space: str, signs: tuple[int, int, int]) -> None:
    volume = read_volume(by_hand(tmp_path / "a.nrrd", f"space: {space}", PLACED))
    np.testing.assert_array_equal(volume.voxels, IMAGE)
    np.testing.assert_allclose(volume.affine[:3, 3], np.multiply(signs, (20, 30, 10)))
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag(np.multiply(signs, (1.2, 0.8, 3))))
    assert volume.attributes["nrrd_space"] == space


@pytest.mark.parametrize("lines", [("spacings: 1.2 0.8 3",), ("space dimension: 3", PLACED)])
def test_a_file_without_space_says_what_is_assumed(tmp_path: Path, lines: tuple[str, ...]) -> None:
    volume = read_volume(by_hand(tmp_path / "a.nrrd", *lines))
    np.testing.assert_allclose(np.diag(volume.affine), (-1.2, -0.8, 3, 1))
    assert volume.attributes["nrrd_space"] == "none; left-posterior-superior is assumed"


def test_big_endian_voxels_are_turned(tmp_path: Path) -> None:
    path = by_hand(tmp_path / "a.nrrd", LPS, PLACED, voxels=IMAGE.astype(">i2").tobytes(), endian="big")
    np.testing.assert_array_equal(read_volume(path).voxels, IMAGE)


def test_micrometres_become_millimetres_in_the_geometry_alone(tmp_path: Path) -> None:
    volume = read_volume(by_hand(tmp_path / "a.nrrd", LPS, PLACED, 'space units: "um" "um" "um"'))
    assert volume.geometry.spacing_zyx == pytest.approx((0.003, 0.0008, 0.0012))
    assert volume.affine[2, 2] == 3


def test_compressed_voxels_are_read_to_their_checksum(tmp_path: Path) -> None:
    packed = gzip.compress(IMAGE.tobytes(), mtime=0)
    path = by_hand(tmp_path / "a.nrrd", LPS, PLACED, "encoding: gzip", voxels=packed)
    np.testing.assert_array_equal(read_volume(path).voxels, IMAGE)
    for place in range(10, len(packed)):  # behind the header of gzip, of which nothing is used
        damaged = bytearray(packed)
        damaged[place] ^= 1
        path = by_hand(tmp_path / "a.nrrd", LPS, PLACED, "encoding: gzip", voxels=bytes(damaged))
        with pytest.raises(CaseDataError, match=r"a.nrrd (holds damaged|ends inside|cannot be read)"):
            read_volume(path)


@pytest.mark.parametrize(
    ("lines", "sizes", "reason"),
    [
        (("space: scanner-xyz", PLACED), "5 4 3", "has the space 'scanner-xyz', which does not define left and right"),
        ((LPS, PLACED, 'space units: "inch" "inch" "inch"'), "5 4 3", "has the units inch; give all of its axes in mm"),
        ((LPS, PLACED, 'space units: "mm" "mm" "um"'), "5 4 3", "has the units mm, um; give all of its axes in mm"),
        ((LPS, PLACED, "data file: a.raw"), "5 4 3", "keeps its voxels in 'a.raw'; write it as one .nrrd file"),
        ((LPS, "space directions: (1,0,0) (1,0,0) (0,0,3)"), "5 4 3", "affine is singular"),
        ((LPS, PLACED), "30000 30000 30000", r"declares 54000\.00 GB of voxels"),
        ((LPS, PLACED), "5 4 30", "cannot be read as NRRD"),
    ],
)
def test_a_header_that_is_not_believed_names_what_is_wrong(
    tmp_path: Path, lines: tuple[str, ...], sizes: str, reason: str
) -> None:
    with pytest.raises(CaseDataError, match=rf"a.nrrd.*{reason}"):
        read_volume(by_hand(tmp_path / "a.nrrd", *lines, sizes=sizes))


def test_colours_need_a_chosen_channel(tmp_path: Path) -> None:
    sitk.WriteImage(itk_image(np.stack([IMAGE, IMAGE + 1], axis=3), AFFINE, vector=True), str(tmp_path / "a.nrrd"))
    with pytest.raises(CaseDataError, match=r"shape \(5, 4, 3, 2\) where three dimensions .* channel in the"):
        read_volume(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd", channel=1).voxels, IMAGE + 1)


@pytest.mark.parametrize("content", [None, b"", b"no volume at all"])
def test_what_is_no_nrrd_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.nrrd").write_bytes(content)
    with pytest.raises(CaseDataError, match=r"a.nrrd cannot be read as NRRD"):
        read_volume(tmp_path / "a.nrrd")
