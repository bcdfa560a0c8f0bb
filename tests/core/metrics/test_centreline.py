import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import skeletonize

from medsam3_core.errors import CaseDataError
from medsam3_core.metrics.centreline import centreline, cl_dice
from medsam3_core.metrics.overlap import count_masks, dice


def tube(start, stop, half_width, shape=(1, 15, 40)):
    """A straight tube along x, round the middle of the slice or volume."""
    mask = np.zeros(shape, dtype=bool)
    across = [slice(size // 2 - half_width, size // 2 + half_width + 1) for size in shape[:2]]
    mask[across[0] if shape[0] > 1 else 0, across[1], start:stop] = True
    return mask


def blobs(shape, seed, smooth):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth) > 0.1


SHAPES = [(1, 15, 40), (15, 15, 40)]


@pytest.mark.parametrize("shape", SHAPES)
def test_half_a_vessel_is_precise_but_half_as_sensitive(shape):
    assert cl_dice(tube(10, 30, 0, shape), tube(10, 20, 0, shape)) == pytest.approx(2 * 1.0 * 0.5 / 1.5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_thin_vessel_keeps_its_topology_where_dice_falls(shape):
    thick, thin = tube(5, 35, 2, shape), tube(5, 35, 0, shape)
    assert cl_dice(thick, thin) > 0.9
    assert dice(count_masks(thick, thin)) < 0.4


@pytest.mark.parametrize("shape", SHAPES)
def test_a_vessel_that_is_missed_altogether_scores_zero(shape):
    assert cl_dice(tube(2, 10, 1, shape), tube(20, 30, 1, shape)) == 0.0


@pytest.mark.parametrize("shape", SHAPES)
def test_empty_masks_follow_the_policy_of_overlap(shape):
    some, none = tube(5, 35, 1, shape), np.zeros(shape, dtype=bool)
    assert np.isnan(cl_dice(none, none))
    assert cl_dice(some, none) == cl_dice(none, some) == 0.0
    assert cl_dice(some, some) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_slices_score_as_with_the_code_of_the_paper(seed):
    reference, prediction = blobs((1, 60, 60), seed, (0, 2, 2)), blobs((1, 60, 60), seed + 9, (0, 2, 2))
    inside_reference = reference[0][skeletonize(prediction[0])].mean()
    inside_prediction = prediction[0][skeletonize(reference[0])].mean()
    expected = 2 * inside_reference * inside_prediction / (inside_reference + inside_prediction)
    assert cl_dice(reference, prediction) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(1, 40, 40), (20, 20, 20)])
def test_a_margin_of_background_changes_nothing(shape):
    smooth = (0, 1.5, 1.5) if shape[0] == 1 else 1.5
    reference, prediction = blobs(shape, 1, smooth), blobs(shape, 2, smooth)
    margin = ((0, 0) if shape[0] == 1 else (2, 3), (4, 1), (0, 5))
    padded = [np.pad(mask, margin) for mask in (reference, prediction)]
    assert cl_dice(*padded) == pytest.approx(cl_dice(reference, prediction))


def test_a_bar_that_lee_thinning_deletes_keeps_a_centreline():
    bar = np.pad(np.ones((2, 2, 30), dtype=bool), 3)
    assert not skeletonize(bar).any()
    assert centreline(bar, is_2d=False).any()
    assert cl_dice(bar, bar) == 1.0


def test_every_part_of_a_mask_keeps_some_centreline():
    mask = blobs((24, 24, 24), 0, 1.2)
    parts, n_parts = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    line = centreline(mask, is_2d=False)
    assert not (line & ~mask).any()
    assert len(np.unique(parts[line])) == n_parts
    assert len(np.unique(parts[skeletonize(mask)])) < n_parts


def test_a_flat_vessel_in_a_volume_is_thinned_as_a_volume():
    flat = np.zeros((3, 15, 40), dtype=bool)
    flat[1, 5:10, 5:35] = True
    assert cl_dice(flat, flat) == 1.0


def test_masks_must_be_boolean():
    with pytest.raises(CaseDataError, match="masks must be boolean, got reference bool and prediction float32"):
        cl_dice(tube(5, 35, 1), tube(5, 35, 1).astype(np.float32))
