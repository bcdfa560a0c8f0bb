import numpy as np
import pytest
import torch
from monai.metrics import compute_panoptic_quality
from scipy import ndimage

from medsam3_core.errors import CaseDataError
from medsam3_core.metrics.instances import (
    InstanceCounts,
    instance_f1,
    instance_precision,
    instance_recall,
    match_instances,
    panoptic_quality,
)

METRICS = (instance_precision, instance_recall, instance_f1, panoptic_quality)


def row_of(*runs, length=40):
    """A one-slice label map: instance i + 1 covers the columns [start, stop) of run i."""
    labels = np.zeros((1, 1, length), dtype=np.uint16)
    for value, (start, stop) in enumerate(runs, start=1):
        labels[..., start:stop] = value
    return labels


def test_one_found_one_missed_one_invented():
    counts = match_instances(row_of((0, 8), (10, 20)), row_of((2, 8), (30, 35)))
    assert counts == InstanceCounts(reference=2, prediction=2, matched=1, matched_iou=6 / 8)
    assert [metric(counts) for metric in METRICS] == [0.5, 0.5, 0.5, 0.375]


def test_an_iou_of_exactly_one_half_is_no_match():
    assert match_instances(row_of((0, 10)), row_of((0, 5))).matched == 0
    assert match_instances(row_of((0, 11)), row_of((0, 6))).matched == 1


def test_a_cell_split_in_halves_is_not_found_and_two_merged_cells_are_not_either():
    halves, whole = row_of((0, 10), (10, 20)), row_of((0, 20))
    assert match_instances(whole, halves) == InstanceCounts(1, 2, 0, 0.0)
    assert match_instances(halves, whole) == InstanceCounts(2, 1, 0, 0.0)


def test_the_larger_part_of_a_split_cell_still_matches():
    counts = match_instances(row_of((0, 20)), row_of((0, 15), (15, 20)))
    assert counts == InstanceCounts(1, 2, 1, 0.75)
    assert instance_f1(counts) == pytest.approx(2 / 3)


def test_numbering_does_not_matter():
    reference, prediction = row_of((0, 8), (10, 20)), row_of((0, 7), (11, 20))
    renumbered = np.array([0, 40_000, 3], dtype=np.uint16)[prediction]
    assert match_instances(reference, renumbered) == match_instances(reference, prediction)


def test_the_largest_values_cost_no_memory_and_do_not_overflow():
    reference = row_of((0, 8), (10, 20)).astype(np.uint32) * (2**30 - 1)
    assert match_instances(reference, reference) == InstanceCounts(2, 2, 2, 2.0)


def test_no_instances_on_either_side_is_undefined():
    counts = match_instances(row_of(), row_of())
    assert counts == InstanceCounts(0, 0, 0, 0.0)
    assert all(np.isnan(metric(counts)) for metric in METRICS)


def test_instances_on_one_side_only_score_zero():
    for pair in ((row_of((0, 5)), row_of()), (row_of(), row_of((0, 5)))):
        assert [metric(match_instances(*pair)) for metric in METRICS] == [0.0] * 4


@pytest.mark.parametrize("seed", range(3))
def test_panoptic_quality_equals_that_of_monai(seed):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(80, 80)), 2)
    reference, _ = ndimage.label(noise > 0.05)
    prediction, _ = ndimage.label(np.roll(noise, 1, axis=0) > 0.07)
    ours = match_instances(reference[None], prediction[None])
    assert 3 < ours.matched < ours.reference
    theirs = {
        name: compute_panoptic_quality(torch.from_numpy(prediction), torch.from_numpy(reference), name).item()
        for name in ("pq", "rq")
    }
    assert panoptic_quality(ours) == pytest.approx(theirs["pq"], abs=1e-6)
    assert instance_f1(ours) == pytest.approx(theirs["rq"], abs=1e-6)


@pytest.mark.parametrize(
    ("reference", "prediction", "message"),
    [
        (row_of((0, 5)), row_of((0, 5), length=30), r"shape \(1, 1, 40\), prediction \(1, 1, 30\)"),
        (row_of((0, 5)) > 0, row_of((0, 5)), "reference instances have dtype bool"),
        (row_of((0, 5)), -row_of((0, 5)).astype(np.int32), r"prediction instances hold the values -1..0"),
        (
            row_of((0, 5)),
            row_of((0, 5)).astype(np.int64) * 2**31,
            r"prediction instances hold the values 0..2147483648",
        ),
    ],
)
def test_maps_that_are_no_instances_of_one_grid_are_refused(reference, prediction, message):
    with pytest.raises(CaseDataError, match=message):
        match_instances(reference, prediction)
