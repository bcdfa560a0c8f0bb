import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own custom

from medsam3_core.errors import CaseDataError
from storage.sources.formats.volumes.registry import read_volume, slice_size, volume_geometry
from tests.storage.sources.itk_files import affine_by_itk, itk_image, write_itk
from tests.storage.sources.volume_files import AFFINE, IMAGE, check_read_everywhere


def by_hand(path: Path, voxels: bytes = IMAGE.tobytes(), **changes: Any) -> Path:
    """A header line by line; what is None is left out."""
    lines = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "20 30 10",
        "ElementSpacing": "1.2 0.8 3",
        "DimSize": "5 4 3",
        "ElementType": "MET_SHORT",
        **changes,
        "ElementDataFile": changes.get("ElementDataFile", "LOCAL"),
    }
    path.write_bytes("".join(f"{key} = {value}\n" for key, value in lines.items()).encode() + voxels)
    return path


def test_metaimage_is_read_everywhere(tmp_path: Path) -> None:
    check_read_everywhere(tmp_path, ".mha", write_itk)


def test_an_oblique_volume_lies_where_simpleitk_puts_it(tmp_path: Path) -> None:
    write_itk(tmp_path / "a.mha", IMAGE, AFFINE)
    volume = read_volume(tmp_path / "a.mha")
    np.testing.assert_allclose(volume.affine, affine_by_itk(tmp_path / "a.mha"), atol=1e-6)
    geometry = volume_geometry(tmp_path / "a.mha")
    assert geometry is not None
    assert geometry.matches(volume.geometry)
    assert slice_size(tmp_path / "a.mha") == (5, 4)


def test_a_header_by_hand_is_in_lps(tmp_path: Path) -> None:
    volume = read_volume(by_hand(tmp_path / "a.mha"))
    np.testing.assert_array_equal(volume.voxels, IMAGE)
    expected = [[-1.2, 0, 0, -20], [0, -0.8, 0, -30], [0, 0, 3, 10], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine, expected, atol=1e-9)


def test_big_endian_voxels_are_turned(tmp_path: Path) -> None:
    path = by_hand(tmp_path / "a.mha", IMAGE.astype(">i2").tobytes(), BinaryDataByteOrderMSB=True)
    np.testing.assert_array_equal(read_volume(path).voxels, IMAGE)


def test_micrometres_become_millimetres_in_the_geometry_alone(tmp_path: Path) -> None:
    volume = read_volume(by_hand(tmp_path / "a.mha", ElementSpacing="500 500 2000", DistanceUnits="um"))
    assert volume.geometry.spacing_zyx == pytest.approx((2.0, 0.5, 0.5))
    assert volume.affine[0, 0] == -500.0


def test_compressed_voxels_are_read_to_their_checksum(tmp_path: Path) -> None:
    packed = zlib.compress(IMAGE.tobytes())
    named = {"CompressedData": True, "CompressedDataSize": len(packed)}
    np.testing.assert_array_equal(read_volume(by_hand(tmp_path / "a.mha", packed, **named)).voxels, IMAGE)
    for place in range(2, len(packed)):
        damaged = bytearray(packed)
        damaged[place] ^= 1
        with pytest.raises(CaseDataError, match=r"a.mha (holds damaged|ends inside|cannot be read)"):
            read_volume(by_hand(tmp_path / "a.mha", bytes(damaged), **named))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "affine is singular"),
        ({"ElementSpacing": "0 1 1"}, "affine is singular"),
        ({"Offset": "nan 0 0"}, "has Offset nan 0 0, which are not finite numbers; correct it"),
        ({"ElementToIntensityFunctionSlope": 2}, "has ElementToIntensityFunctionSlope 2, .* apply it to the voxels"),
        ({"DistanceUnits": "inch"}, "has DistanceUnits 'inch', not one of mm, um, m"),
        ({"ElementDataFile": "a.raw"}, "keeps its voxels in 'a.raw'; write it as one .mha file"),
        ({"DimSize": "30000 30000 30000"}, r"declares 54000\.00 GB of voxels"),
        ({"DimSize": "5 4 30"}, r"cannot be read as MetaImage \(File cannot be read"),
        ({"NDims": "three"}, "cannot be read as MetaImage"),
    ],
)
def test_a_header_that_is_not_believed_names_what_is_wrong(tmp_path: Path, changes: Any, reason: str) -> None:
    with pytest.raises(CaseDataError, match=rf"a.mha.*{reason}"):
        read_volume(by_hand(tmp_path / "a.mha", **changes))


def test_colours_and_time_points_need_a_chosen_channel(tmp_path: Path) -> None:
    sitk.WriteImage(itk_image(np.stack([IMAGE, IMAGE + 1], axis=3), AFFINE, vector=True), str(tmp_path / "a.mha"))
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([IMAGE, IMAGE + 1]), isVector=False), str(tmp_path / "b.mha"))
    for path in (tmp_path / "a.mha", tmp_path / "b.mha"):
        with pytest.raises(CaseDataError, match=r"shape \(5, 4, 3, 2\) where three dimensions .* channel in the"):
            read_volume(path)
        np.testing.assert_array_equal(read_volume(path, channel=1).voxels, IMAGE + 1)


def test_two_dimensions_are_one_slice(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(IMAGE[0]), str(tmp_path / "a.mha"))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mha").voxels, IMAGE[:1])


@pytest.mark.parametrize("content", [None, b"", b"no volume at all"])
def test_what_is_no_metaimage_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.mha").write_bytes(content)
    with pytest.raises(CaseDataError, match=r"a.mha cannot be read as MetaImage"):
        read_volume(tmp_path / "a.mha")
