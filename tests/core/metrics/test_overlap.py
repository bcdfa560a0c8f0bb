import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_iou

from medsam3_core.errors import CaseDataError
from medsam3_core.metrics import overlap
from medsam3_core.metrics.mask_pairs import crop_to_union
from medsam3_core.metrics.overlap import ConfusionCounts, count_masks

SHAPE = (6, 8, 10)
METRICS = (overlap.dice, overlap.iou, overlap.precision, overlap.recall)


def box(start, stop, shape=SHAPE):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def random_label_map(seed, n_values=5, shape=SHAPE):
    return np.random.default_rng(seed).integers(n_values, size=shape).astype(np.uint8)


def test_cubes_that_share_half_their_voxels():
    counts = count_masks(box((0, 0, 0), (4, 4, 4)), box((2, 0, 0), (6, 4, 4)))
    assert counts == ConfusionCounts(32, 32, 32, 6 * 8 * 10 - 96)
    assert [metric(counts) for metric in METRICS] == [0.5, pytest.approx(1 / 3), 0.5, 0.5]
    assert overlap.specificity(counts) == pytest.approx(1 - 32 / 416)


def test_a_prediction_inside_the_reference_is_precise_but_incomplete():
    counts = count_masks(box((0, 0, 0), (4, 4, 4)), box((0, 0, 0), (2, 4, 4)))
    assert [metric(counts) for metric in METRICS] == [pytest.approx(2 / 3), 0.5, 1.0, 0.5]
    assert overlap.specificity(counts) == 1.0


def test_two_empty_masks_have_no_overlap_to_measure_but_a_perfect_specificity():
    counts = count_masks(box((0, 0, 0), (0, 0, 0)), box((0, 0, 0), (0, 0, 0)))
    assert all(np.isnan(metric(counts)) for metric in METRICS)
    assert overlap.specificity(counts) == 1.0


def test_one_empty_mask_scores_zero_whichever_it_is():
    some, none = box((0, 0, 0), (4, 4, 4)), box((0, 0, 0), (0, 0, 0))
    for counts in (count_masks(some, none), count_masks(none, some)):
        assert [metric(counts) for metric in METRICS] == [0.0] * 4


def test_specificity_is_undefined_where_the_reference_fills_the_volume():
    assert np.isnan(overlap.specificity(count_masks(box((0, 0, 0), SHAPE), box((0, 0, 0), (1, 1, 1)))))


@pytest.mark.parametrize(("stop", "expected"), [((4, 4, 4), 0.0), ((2, 4, 4), 0.5), ((0, 0, 0), 1.0), (SHAPE, 6.5)])
def test_the_volume_difference_is_relative_to_the_reference_and_has_no_sign(stop, expected):
    counts = count_masks(box((0, 0, 0), (4, 4, 4)), box((0, 0, 0), stop))
    assert overlap.ravd(counts) == expected


def test_a_volume_difference_needs_a_reference_to_be_relative_to():
    none = box((0, 0, 0), (0, 0, 0))
    assert np.isnan(overlap.ravd(count_masks(none, none)))
    assert np.isnan(overlap.ravd(count_masks(none, box((0, 0, 0), (4, 4, 4)))))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(1, 24, 20), (9, 24, 20)])
def test_dice_and_iou_equal_those_of_monai(seed, shape):
    random = np.random.default_rng(seed)
    reference, prediction = random.random(shape) < 0.4, random.random(shape) < 0.3
    counts = count_masks(reference, prediction)
    one, other = (torch.from_numpy(mask)[None, None] for mask in (prediction, reference))
    assert overlap.dice(counts) == pytest.approx(compute_dice(one, other).item(), abs=1e-6)
    assert overlap.iou(counts) == pytest.approx(compute_iou(one, other).item(), abs=1e-6)


def test_the_crop_is_the_smallest_box_round_both_masks():
    reference, prediction = box((1, 2, 3), (2, 4, 5)), box((3, 2, 6), (5, 3, 9))
    cropped = crop_to_union(reference, prediction)
    assert [mask.shape for mask in cropped] == [(4, 2, 6), (4, 2, 6)]
    assert [mask.sum() for mask in cropped] == [reference.sum(), prediction.sum()]


def test_the_crop_of_two_empty_masks_has_no_voxel():
    empty = np.zeros(SHAPE, dtype=bool)
    assert crop_to_union(empty, empty)[0].size == 0


def test_masks_must_be_boolean():
    with pytest.raises(CaseDataError, match="masks must be boolean, got reference uint8 and prediction bool"):
        count_masks(np.zeros(SHAPE, dtype=np.uint8), np.zeros(SHAPE, dtype=bool))


def test_masks_must_have_one_shape():
    with pytest.raises(CaseDataError, match=r"reference has shape \(6, 8, 10\), prediction \(6, 8, 9\)"):
        count_masks(np.zeros(SHAPE, dtype=bool), np.zeros((6, 8, 9), dtype=bool))


def test_a_picture_is_refused_until_it_is_a_slice():
    with pytest.raises(CaseDataError, match=r"got \(8, 10\); a single slice is \(1, y, x\)"):
        count_masks(np.zeros((8, 10), dtype=bool), np.zeros((8, 10), dtype=bool))
