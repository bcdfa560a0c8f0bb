import tracemalloc

import numpy as np
import pytest

from medsam3_core.errors import UsageError
from medsam3_core.inference.predictions import PredictionBuilder

SHAPE = (6, 4, 20)


def line(*runs):
    """Label slice: label i + 1 covers the columns [x0, x1) of run i on the first row."""
    labels = np.zeros(SHAPE[1:], dtype=np.uint16)
    for label, (x0, x1) in enumerate(runs, start=1):
        labels[0, x0:x1] = label
    return labels


def scores(*values):
    return np.array(values, dtype=np.float32)


def built(slices, shape=SHAPE):
    """Prediction of one structure from z to (labels, scores)."""
    builder = PredictionBuilder(shape, ["liver"])
    for z, (labels, values) in slices.items():
        builder.add("liver", z, labels, values)
    return builder.finish()


def test_slices_never_added_are_background():
    prediction = built({2: (line((3, 5)), scores(0.8))})
    labels = prediction.labels("liver")
    assert labels.shape == SHAPE
    assert labels.dtype == np.uint16
    assert np.argwhere(labels).tolist() == [[2, 0, 3], [2, 0, 4]]


def test_an_object_keeps_its_number_through_the_slices_whatever_its_label_there():
    prediction = built({0: (line((0, 4), (10, 14)), scores(0.9, 0.5)), 1: (line((10, 15), (1, 5)), scores(0.8, 0.7))})
    labels = prediction.labels("liver")
    assert labels[0, 0, [2, 12]].tolist() == labels[1, 0, [2, 12]].tolist() == [1, 2]


def test_confidence_is_the_mean_over_slices_weighted_by_area_and_sorts_the_numbers():
    prediction = built({0: (line((0, 6), (10, 12)), scores(0.5, 0.9)), 1: (line((0, 2), (10, 12)), scores(0.9, 0.7))})
    assert prediction.confidence("liver").tolist() == pytest.approx([0.8, (6 * 0.5 + 2 * 0.9) / 8])
    assert prediction.labels("liver")[0, 0, [0, 10]].tolist() == [2, 1]


def test_a_slice_without_the_object_breaks_the_link():
    prediction = built({z: (line((0, 4)), scores(0.9 - z / 10)) for z in (0, 2)})
    assert prediction.labels("liver")[:3, 0, 0].tolist() == [1, 0, 2]


def test_an_empty_slice_between_breaks_the_link_too():
    empty = np.zeros(SHAPE[1:], dtype=np.uint16)
    one = line((0, 4))
    prediction = built({0: (one, scores(0.9)), 1: (empty, scores()), 2: (one, scores(0.8))})
    assert len(prediction.confidence("liver")) == 2


def test_of_a_branching_object_the_branch_with_the_higher_iou_keeps_the_number():
    prediction = built({0: (line((0, 10)), scores(0.9)), 1: (line((0, 3), (4, 10)), scores(0.8, 0.8))})
    labels = prediction.labels("liver")
    assert labels[1, 0, [0, 5]].tolist() == [2, 1]


@pytest.mark.parametrize(("start", "objects"), [(8, 1), (9, 2), (10, 2)])
def test_objects_are_linked_from_a_tenth_of_overlap_on(start, objects):
    # Two runs of ten columns: they share 2 of 18 (IoU 0.11), 1 of 19 (0.05) or none.
    prediction = built({0: (line((0, 10)), scores(0.9)), 1: (line((start, start + 10)), scores(0.9))})
    assert len(prediction.confidence("liver")) == objects


def test_the_order_of_adding_does_not_matter():
    slices = {z: (line((z, z + 4), (12, 15)), scores(0.9 - z / 20, 0.6)) for z in range(5)}
    forwards, backwards = built(slices), built(dict(reversed(slices.items())))
    assert np.array_equal(forwards.labels("liver"), backwards.labels("liver"))
    assert forwards.confidence("liver").tolist() == backwards.confidence("liver").tolist()


def test_a_score_without_pixels_becomes_no_object():
    assert built({0: (line((0, 2)), scores(0.9, 0.8))}).confidence("liver").tolist() == pytest.approx([0.9])


def test_structures_are_kept_apart_and_those_never_added_are_empty():
    builder = PredictionBuilder(SHAPE, ["liver", "spleen"])
    builder.add("liver", 0, line((0, 2)), scores(0.9))
    prediction = builder.finish()
    assert prediction.structures == ("liver", "spleen")
    assert prediction.labels("spleen").sum() == 0
    assert prediction.confidence("spleen").shape == (0,)


def test_more_objects_than_uint16_holds_lose_those_of_the_lowest_scores_and_say_so():
    labels = np.arange(1, 40001, dtype=np.uint16).reshape(200, 200)
    values = np.linspace(1.0, 0.6, 40000, dtype=np.float32)
    capped = built(dict.fromkeys((0, 2), (labels, values)), (3, 200, 200))  # the gap keeps 80000 objects apart
    assert capped.fallbacks == ("objects-capped:liver:80000>65535",)
    assert capped.labels("liver").max() == len(capped.confidence("liver")) == 65535
    assert (np.diff(capped.confidence("liver")) <= 0).all()


def test_fallbacks_are_noted_once_in_order():
    builder = PredictionBuilder(SHAPE, ["liver"])
    builder.note(["b", "a"])
    builder.note(["a", "c"])
    assert builder.finish().fallbacks == ("b", "a", "c")


@pytest.mark.parametrize(
    ("structure", "z", "labels", "error", "complaint"),
    [
        ("spleen", 0, line((0, 2)), UsageError, "unknown structure 'spleen'; the prediction has: liver"),
        ("liver", 6, line((0, 2)), UsageError, r"slice 6 of 'liver' is prompted, the volume has slices 0\.\.5"),
        ("liver", 1, line((0, 2)), ValueError, "slice 1 of 'liver' is added twice"),
        ("liver", 0, line((0, 2), (3, 4)), ValueError, "largest label 2, 1 scores"),
        ("liver", 0, line((0, 2)).astype(np.int64), ValueError, "got int64"),
        ("liver", 0, line((0, 2))[1:], ValueError, r"labels of shape \(4, 20\) .* got uint16 \(3, 20\)"),
    ],
)
def test_a_slice_that_does_not_fit_is_refused(structure, z, labels, error, complaint):
    builder = PredictionBuilder(SHAPE, ["liver"])
    builder.add("liver", 1, line((0, 2)), scores(0.9))
    with pytest.raises(error, match=complaint):
        builder.add(structure, z, labels, scores(0.9))


def test_a_structure_that_was_not_asked_for_is_refused():
    with pytest.raises(UsageError, match="unknown structure 'spleen'; the prediction has: liver"):
        built({}).labels("spleen")


def test_collected_slices_take_a_small_part_of_the_dense_volume():
    shape = (40, 256, 256)
    structures = [f"organ{number}" for number in range(10)]
    labels = np.zeros(shape[1:], dtype=np.uint16)
    labels[50:150, 60:180] = 1
    tracemalloc.start()
    builder = PredictionBuilder(shape, structures)
    for structure in structures:
        for z in range(shape[0]):
            builder.add(structure, z, labels, scores(0.9))
    prediction = builder.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * np.prod(shape) / 4  # dense uint16 volumes of ten structures would be forty times this
    assert np.array_equal(prediction.labels("organ9"), np.broadcast_to(labels, shape))
