import math
import subprocess
import sys
from dataclasses import asdict, fields, replace
from types import SimpleNamespace

import numpy as np
import pytest

from medsam3_core.cases.geometry import LengthUnit, VolumeGeometry
from medsam3_core.cases.structures import Structure
from medsam3_core.errors import CaseDataError
from medsam3_core.metrics.protocol_version import PROTOCOL_VERSION
from medsam3_core.metrics.scoring import EmptyMask, VolumeUnit, score_structure
from medsam3_core.metrics.table import METRICS

SHAPE = (6, 8, 10)
SPACING_ZYX = (2.0, 1.0, 0.5)
LIVER = Structure("liver", "liver")
VESSEL = Structure("vessel", "vessel", tubular=True)
NUCLEUS = Structure("nucleus", "nucleus", instances=True)

INSTANCE_COLUMNS = (
    "instances_reference",
    "instances_prediction",
    "instance_precision",
    "instance_recall",
    "instance_f1",
    "pq",
)
COLUMNS = (
    *("empty", "nsd_tolerance", "distance_unit"),
    *("reference_volume", "prediction_volume", "volume_error", "volume_unit"),
    *("instances_reference", "instances_prediction"),
    *("true_positive", "false_positive", "false_negative", "true_negative"),
)


def in_mm(shape=SHAPE):
    z, y, x = SPACING_ZYX
    return VolumeGeometry.from_nifti(shape, np.diag([x, y, z, 1.0]))


def block(z, y, x, shape=SHAPE):
    mask = np.zeros(shape, dtype=bool)
    mask[z, y, x] = True
    return mask


def score(reference, prediction, geometry=None, *, structure=LIVER, **instances):
    found = score_structure(reference, prediction, geometry or in_mm(), structure=structure, **instances)
    facts = {field.name: getattr(found, field.name) for field in fields(found)}
    return SimpleNamespace(**(facts | facts.pop("metrics") | asdict(found.counts)))


CUBE = block(slice(0, 4), slice(0, 4), slice(0, 4))
NOTHING = np.zeros(SHAPE, dtype=bool)


def test_the_columns_are_the_metrics_and_what_their_numbers_rest_on():
    assert score_structure(CUBE, CUBE, in_mm(), structure=LIVER).as_columns().keys() == {*METRICS, *COLUMNS}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize(("place", "masks"), [(0, (NOTHING, NOTHING)), (1, (CUBE, NOTHING)), (2, (NOTHING, CUBE))])
def test_every_metric_has_the_value_of_its_row_where_a_mask_is_empty(metric, place, masks):
    everything = Structure("net", "net", tubular=True, instances=True)
    maps = [mask.astype(np.uint16) for mask in masks]
    row = score(*masks, structure=everything, reference_instances=maps[0], prediction_instances=maps[1])
    value, promised = getattr(row, metric.name), metric.empty[place]
    if promised.startswith("below"):
        assert value < float(promised.removeprefix("below"))
    else:
        assert value == (None if promised == "NULL" else float(promised))


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_is_as_symmetric_and_bounded_as_its_row_says(metric):
    one = np.repeat(np.array([1, 2, 0], dtype=np.uint16), 2)[:, np.newaxis, np.newaxis] * np.ones(
        SHAPE, dtype=np.uint16
    )
    other = np.where(np.random.default_rng(0).random(SHAPE) < 0.9, one, 0) * (one == 1)  # misses an instance
    everything = Structure("net", "net", tubular=True, instances=True)
    values = [
        getattr(score(a > 0, b > 0, structure=everything, reference_instances=a, prediction_instances=b), metric.name)
        for a, b in ((one, other), (other, one), (one, one))
    ]
    assert 0 <= min(values) <= max(values) <= (metric.upper or math.inf)
    assert (values[0] == values[1]) is metric.symmetric
    assert values[2] == (1.0 if metric.higher_is_better else 0.0)


def test_a_cube_that_is_predicted_one_slice_too_low():
    row = score(CUBE, block(slice(1, 5), slice(0, 4), slice(0, 4)))
    assert row.empty is EmptyMask.NONE
    assert (row.dice, row.iou, row.precision, row.recall) == (0.75, 0.6, 0.75, 0.75)
    assert row.specificity == 1 - 16 / (480 - 64)
    assert row.hd95 == 2.0  # the slice spacing
    assert row.nsd == 1.0  # within the default tolerance of 2 mm
    assert 0 < row.assd < 2.0
    assert (row.distance_unit, row.volume_unit) == ("mm", "ml")
    assert row.reference_volume == row.prediction_volume == 64 / 1000
    assert row.volume_error == 0.0


def test_the_tolerance_comes_from_the_structure_and_stands_in_the_row():
    row = score(CUBE, block(slice(1, 5), slice(0, 4), slice(0, 4)), structure=replace(LIVER, nsd_tolerance=1.0))
    assert row.nsd_tolerance == 1.0
    assert row.nsd < 1.0


def test_both_empty_leaves_only_specificity_and_volumes():
    row = score(NOTHING, NOTHING)
    assert row.empty is EmptyMask.BOTH
    assert {row.dice, row.iou, row.precision, row.recall, row.hd95, row.assd, row.nsd, row.volume_error} == {None}
    assert row.specificity == 1.0
    assert row.reference_volume == row.prediction_volume == 0.0


def test_a_missed_structure_scores_zero_and_has_no_distance():
    row = score(CUBE, NOTHING)
    assert row.empty is EmptyMask.PREDICTION
    assert {row.dice, row.iou, row.precision, row.recall, row.nsd} == {0.0}
    assert row.hd95 is row.assd is None
    assert (row.specificity, row.volume_error) == (1.0, -1.0)


def test_a_false_alarm_scores_zero_and_has_no_relative_volume_error():
    row = score(NOTHING, CUBE)
    assert row.empty is EmptyMask.REFERENCE
    assert {row.dice, row.iou, row.precision, row.recall, row.nsd} == {0.0}
    assert row.hd95 is row.assd is row.volume_error is None
    assert row.specificity == 1 - 64 / 480
    assert row.prediction_volume == 0.064


def test_specificity_is_undefined_where_the_structure_fills_the_volume():
    assert score(~NOTHING, CUBE).specificity is None


def test_cldice_is_for_tubular_structures_only():
    assert score(CUBE, CUBE).cldice is None
    assert score(CUBE, CUBE, structure=VESSEL).cldice == 1.0
    assert score(CUBE, NOTHING, structure=VESSEL).cldice == 0.0
    assert score(NOTHING, NOTHING, structure=VESSEL).cldice is None


def test_instances_are_matched_for_structures_that_come_in_instances():
    reference, prediction = np.zeros((2, *SHAPE), dtype=np.uint16)
    reference[0, :4, :4], reference[3, :4, :4], prediction[0, :4, :4] = 1, 2, 1
    row = score(
        reference > 0,
        prediction > 0,
        structure=NUCLEUS,
        reference_instances=reference,
        prediction_instances=prediction,
    )
    assert [getattr(row, name) for name in INSTANCE_COLUMNS] == [
        2,
        1,
        1.0,
        0.5,
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
    ]


@pytest.mark.parametrize("masks", [(NOTHING, NOTHING), (CUBE, NOTHING), (NOTHING, CUBE)])
def test_instance_metrics_follow_the_empty_mask_policy(masks):
    maps = [mask.astype(np.uint16) for mask in masks]
    row = score(*masks, structure=NUCLEUS, reference_instances=maps[0], prediction_instances=maps[1])
    assert (row.instances_reference, row.instances_prediction) == tuple(int(mask.any()) for mask in masks)
    expected = {0.0} if masks[0].any() or masks[1].any() else {None}
    assert {row.instance_precision, row.instance_recall, row.instance_f1, row.pq} == expected


def test_instance_metrics_are_undefined_without_instances():
    ones = CUBE.astype(np.uint16)
    for row in (
        score(CUBE, CUBE, structure=NUCLEUS),
        score(CUBE, CUBE, structure=NUCLEUS, prediction_instances=ones),
        score(CUBE, CUBE, structure=LIVER, reference_instances=ones, prediction_instances=ones),
    ):
        assert {getattr(row, name) for name in INSTANCE_COLUMNS} == {None}


@pytest.mark.parametrize(
    ("shape", "unit", "volume_unit", "size"),
    [
        ((6, 8, 10), LengthUnit.MILLIMETRE, VolumeUnit.MILLILITRE, 12 * 2.0 * 1.0 * 0.5 / 1000),
        ((1, 8, 10), LengthUnit.MILLIMETRE, VolumeUnit.SQUARE_MILLIMETRE, 12 * 1.0 * 0.5),
        ((6, 8, 10), LengthUnit.PIXEL, VolumeUnit.VOXEL, 12),
        ((1, 8, 10), LengthUnit.PIXEL, VolumeUnit.PIXEL, 12),
    ],
)
def test_units_follow_the_geometry(shape, unit, volume_unit, size):
    geometry = in_mm(shape) if unit is LengthUnit.MILLIMETRE else VolumeGeometry.pixel_grid(shape)
    mask = block(0, slice(0, 3), slice(0, 4), shape)
    row = score(mask, mask, geometry)
    assert (row.distance_unit, row.volume_unit) == (unit, volume_unit)
    assert row.reference_volume == row.prediction_volume == pytest.approx(size)


def test_the_volume_error_is_relative_and_signed():
    half = block(slice(0, 2), slice(0, 4), slice(0, 4))
    assert score(CUBE, half).volume_error == -0.5
    assert score(half, CUBE).volume_error == 1.0


def test_a_single_slice_is_scored_in_its_plane():
    reference = block(0, slice(0, 5), slice(0, 5), (1, 8, 10))
    prediction = block(0, slice(0, 5), slice(2, 7), (1, 8, 10))
    assert score(reference, prediction, in_mm((1, 8, 10))).hd95 == 2 * 0.5
    assert score(reference, prediction, VolumeGeometry.pixel_grid((1, 8, 10))).hd95 == 2.0


@pytest.mark.parametrize("structure", [LIVER, VESSEL, NUCLEUS])
def test_no_number_is_ever_nan_or_infinite(structure):
    masks = (NOTHING, CUBE, ~NOTHING, block(5, 7, 9))
    for reference in masks:
        for prediction in masks:
            row = score(
                reference,
                prediction,
                structure=structure,
                reference_instances=reference.astype(np.uint16),
                prediction_instances=prediction.astype(np.uint16),
            )
            values = [getattr(row, name) for name in (*METRICS, *COLUMNS)]
            assert all(math.isfinite(value) for value in values if isinstance(value, float | int))


def test_plain_python_numbers_leave_for_the_table():
    row = score(CUBE, CUBE, structure=VESSEL)
    assert {type(getattr(row, name)) for name in ("dice", "hd95", "assd", "nsd", "cldice", "reference_volume")} == {
        float
    }


def test_the_table_of_metrics_is_quick_to_import():
    code = "import sys, medsam3_core.metrics.table; sys.exit(len({'scipy', 'skimage'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_protocol_has_a_version():
    assert PROTOCOL_VERSION == "1"


def test_a_mask_that_is_not_boolean_is_refused():
    with pytest.raises(CaseDataError, match="masks must be boolean, got reference bool and prediction uint16"):
        score(CUBE, CUBE.astype(np.uint16))


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(CaseDataError, match=r"reference has shape \(6, 8, 10\), prediction \(6, 8, 9\)"):
        score(CUBE, CUBE[..., :9])


def test_masks_that_are_not_on_the_geometry_are_refused():
    with pytest.raises(CaseDataError, match=r"masks of 'liver' have shape \(6, 8, 10\), their geometry \(6, 10, 8\)"):
        score(CUBE, CUBE, in_mm((6, 10, 8)))


def test_instances_that_are_not_on_the_geometry_are_refused():
    ones = CUBE.astype(np.uint16)
    with pytest.raises(CaseDataError, match=r"prediction instances of 'nucleus' have shape \(5, 8, 10\)"):
        score(CUBE, CUBE, structure=NUCLEUS, reference_instances=ones, prediction_instances=ones[1:])
