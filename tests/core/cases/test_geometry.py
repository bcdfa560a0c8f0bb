import numpy as np
import pytest

from medsam3_core.cases.geometry import LengthUnit, VolumeGeometry
from medsam3_core.errors import CaseDataError

OBLIQUE = np.array([[0.68, -0.1, 0.9, -90.25], [0.3, 0.7, -0.2, 126.1], [-0.11, 0.23, 4.7, -72.77], [0, 0, 0, 1]])


def test_spacing_comes_in_the_order_z_y_x() -> None:
    assert VolumeGeometry.from_nifti((4, 5, 6), np.diag([0.7, 0.8, 3.0, 1.0])).spacing_zyx == (3.0, 0.8, 0.7)


def test_an_affine_survives_the_change_of_index_order_to_the_last_bit() -> None:
    assert (VolumeGeometry.from_nifti((4, 5, 6), OBLIQUE).affine_nifti == OBLIQUE).all()


def test_both_index_orders_put_a_voxel_at_the_same_place() -> None:
    geometry = VolumeGeometry.from_nifti((4, 5, 6), OBLIQUE)
    z, y, x = 3, 1, 5
    world = np.asarray(geometry.affine_zyx_to_ras_mm) @ [z, y, x, 1]
    np.testing.assert_allclose(world, OBLIQUE @ [x, y, z, 1])


def test_the_volume_of_an_oblique_voxel_is_its_determinant() -> None:
    assert VolumeGeometry.from_nifti((4, 5, 6), OBLIQUE).voxel_volume == pytest.approx(
        abs(np.linalg.det(OBLIQUE[:3, :3]))
    )
    assert VolumeGeometry.from_nifti((4, 5, 6), np.diag([-0.5, 0.5, 3.0, 1.0])).voxel_volume == pytest.approx(0.75)


def test_one_slice_has_an_area_whatever_its_thickness() -> None:
    geometry = VolumeGeometry.from_nifti((1, 5, 6), np.diag([0.5, 0.5, 100.0, 1.0]))
    assert geometry.is_2d
    assert geometry.voxel_volume == pytest.approx(0.25)


def test_a_pixel_grid_counts_pixels() -> None:
    geometry = VolumeGeometry.pixel_grid((1, 5, 6))
    assert (geometry.unit, geometry.spacing_zyx, geometry.voxel_volume) == (LengthUnit.PIXEL, (1.0, 1.0, 1.0), 1.0)


def test_geometries_match_where_every_corner_does() -> None:
    geometry = VolumeGeometry.from_nifti((100, 100, 100), OBLIQUE)
    nudged, stretched = OBLIQUE.copy(), OBLIQUE.copy()
    nudged[0, 3] += 1e-4
    stretched[0, 0] += 1e-4  # a hundredth of a millimetre at the far corner
    assert geometry.matches(VolumeGeometry.from_nifti((100, 100, 100), nudged))
    assert not geometry.matches(VolumeGeometry.from_nifti((100, 100, 100), stretched))
    assert not geometry.matches(VolumeGeometry.from_nifti((100, 100, 99), OBLIQUE))
    assert not VolumeGeometry.pixel_grid((2, 2, 2)).matches(VolumeGeometry.from_nifti((2, 2, 2), np.eye(4)))


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((0, 5, 6), np.eye(4), r"three positive sizes, got \(0, 5, 6\)"),
        ((5, 6), np.eye(4), "three positive sizes"),
        ((4, 5, 6), np.eye(3), "affine must be 4 x 4, got shape"),
        ((4, 5, 6), np.diag([1, 1, np.nan, 1]), "finite 4 x 4 matrix"),
        ((4, 5, 6), np.diag([1, 1, 0, 1]), "affine is singular, got .*; re-export the series"),
        ((4, 5, 6), np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "affine is singular"),
    ],
)
def test_a_geometry_that_cannot_be_inverted_does_not_exist(shape, affine, message) -> None:
    with pytest.raises(CaseDataError, match=message):
        VolumeGeometry.from_nifti(shape, affine)


def test_thin_voxels_are_not_singular() -> None:
    assert VolumeGeometry.from_nifti((4, 5, 6), np.diag([1e-4, 1e-4, 5.0, 1.0])).spacing_zyx[2] == pytest.approx(1e-4)
