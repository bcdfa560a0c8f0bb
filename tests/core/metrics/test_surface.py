import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage
from scipy.spatial.distance import cdist

from medsam3_core.errors import CaseDataError
from medsam3_core.metrics.nearest import surface_distances
from medsam3_core.metrics.surface import assd, hd95, nsd

SPACING = (2.0, 1.0, 0.5)


def slab(z, shape=(9, 6, 7)):
    mask = np.zeros(shape, dtype=bool)
    mask[z] = True
    return mask


def blobs(shape, seed, share=0.3, smooth=1.5):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    return noise > np.quantile(noise, 1 - share)


def all_three(reference, prediction, spacing=SPACING, tolerance=1.0):
    distances = surface_distances(reference, prediction, spacing)
    return hd95(distances), assd(distances), nsd(distances, tolerance)


def monai_three(reference, prediction, spacing, tolerance):
    if reference.shape[0] == 1:
        reference, prediction, spacing = reference[0], prediction[0], spacing[1:]
    pair = [torch.from_numpy(mask.copy())[None, None] for mask in (prediction, reference)]
    options = {"include_background": True, "spacing": spacing}
    return (
        compute_hausdorff_distance(*pair, percentile=95, **options).item(),
        compute_average_surface_distance(*pair, symmetric=True, **options).item(),
        compute_surface_dice(*pair, class_thresholds=[tolerance], **options).item(),
    )


def test_parallel_slabs_are_as_far_apart_as_their_slices():
    assert all_three(slab(2), slab(4), tolerance=3.9) == (4.0, 4.0, 0.0)
    assert all_three(slab(2), slab(4), tolerance=4.0) == (4.0, 4.0, 1.0)


def test_slabs_beyond_the_reach_of_single_steps_are_measured_too():
    assert all_three(slab(0), slab(8), tolerance=16.0) == (16.0, 16.0, 1.0)


def test_equal_masks_have_no_distance():
    mask = blobs((8, 20, 20), 0)
    assert all_three(mask, mask, tolerance=0.0) == (0.0, 0.0, 1.0)


def test_hd95_is_the_larger_direction_not_the_percentile_of_both_pooled():
    reference = np.zeros((1, 30, 100), dtype=bool)
    reference[0, 5] = True
    prediction = reference.copy()
    prediction[0, 25, :10] = True  # 10 of 110 voxels: above 5 % of its own surface, below 5 % of both
    assert all_three(reference, prediction)[0] == 20.0


def test_assd_pools_the_voxels_of_both_surfaces():
    reference = np.zeros((1, 30, 100), dtype=bool)
    reference[0, 5] = True
    prediction = reference.copy()
    prediction[0, 25, :10] = True
    _, mean, share = all_three(reference, prediction)
    assert mean == pytest.approx(10 * 20.0 / 210)
    assert share == pytest.approx(200 / 210)


def test_only_the_rim_of_a_square_in_a_single_slice_is_surface():
    mask = np.zeros((1, 9, 9), dtype=bool)
    mask[0, 2:7, 2:7] = True
    distances = surface_distances(mask, mask, SPACING)
    assert distances.from_reference.size == 16


def test_a_flat_mask_in_a_volume_is_all_surface_although_its_crop_is_one_slice():
    mask = np.zeros((3, 9, 9), dtype=bool)
    mask[1, 2:7, 2:7] = True
    distances = surface_distances(mask, mask, SPACING)
    assert distances.from_reference.size == 25


def test_the_edge_of_the_array_is_outside():
    full = np.ones((4, 5, 6), dtype=bool)
    assert surface_distances(full, full, SPACING).from_reference.size == 4 * 5 * 6 - 2 * 3 * 4


def test_a_margin_of_background_changes_nothing():
    reference, prediction = blobs((6, 20, 20), 1), blobs((6, 20, 20), 2)
    padded = [np.pad(mask, ((3, 1), (0, 9), (4, 2))) for mask in (reference, prediction)]
    assert all_three(*padded) == all_three(reference, prediction)


def test_swapping_the_masks_changes_nothing():
    reference, prediction = blobs((6, 20, 20), 1), blobs((6, 20, 20), 2)
    assert all_three(reference, prediction) == pytest.approx(all_three(prediction, reference))


def test_a_tolerance_of_three_steps_holds_in_spite_of_single_precision_headers():
    step = float(np.float32(0.7)) * (1 + 1e-7)
    assert all_three(slab(2), slab(5), spacing=(step, 0.7, 0.7), tolerance=2.1)[2] == 1.0


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING, (5.0, 0.5, 0.4), (0.3, 2.0, 1.1)])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_distances_equal_those_of_all_pairs_of_border_voxels(spacing, share):
    random = np.random.default_rng(7)
    reference, prediction = (random.random((9, 14, 12)) < share for _ in range(2))
    distances = surface_distances(reference, prediction, spacing)
    points = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing for mask in (reference, prediction)]
    every = cdist(*points)
    np.testing.assert_allclose(distances.from_reference, every.min(axis=1), atol=1e-12)
    np.testing.assert_allclose(distances.from_prediction, every.min(axis=0), atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI warns of itself
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing", [SPACING, (3.3, 0.71, 0.59)])
@pytest.mark.parametrize("shape", [(1, 48, 40), (12, 40, 30)])
def test_values_equal_those_of_monai(seed, spacing, shape):
    smooth = (0, 1.5, 1.5) if shape[0] == 1 else 1.5
    reference = blobs(shape, seed, smooth=smooth)
    shifted = np.roll(reference, seed, axis=2)  # near agreement, and with the blobs below far disagreement
    for prediction in (shifted, blobs(shape, seed + 100, share=0.1, smooth=smooth)):
        expected = monai_three(reference, prediction, spacing, tolerance=1.0)
        assert all_three(reference, prediction, spacing, tolerance=1.0) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_two_empty_masks_have_neither_distance_nor_agreement():
    empty = np.zeros((4, 5, 6), dtype=bool)
    assert np.isnan(all_three(empty, empty)).all()


def test_one_empty_mask_has_no_distance_and_no_agreement():
    empty = np.zeros_like(slab(2))
    for pair in ((slab(2), empty), (empty, slab(2))):
        hausdorff, mean, share = all_three(*pair)
        assert np.isnan(hausdorff)
        assert np.isnan(mean)
        assert share == 0.0


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(CaseDataError, match=r"reference has shape \(9, 6, 7\), prediction \(9, 6, 8\)"):
        surface_distances(slab(2), slab(2, (9, 6, 8)), SPACING)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, np.nan, 1.0)])
def test_a_spacing_that_is_not_three_positive_numbers_is_refused(spacing):
    with pytest.raises(ValueError, match=r"spacing \(z, y, x\) needs three positive numbers"):
        surface_distances(slab(2), slab(3), spacing)


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match=r"NSD tolerance -1\.0 is negative"):
        all_three(slab(2), slab(3), tolerance=-1.0)
