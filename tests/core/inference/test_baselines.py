import pickle

import numpy as np
import pytest

from medsam3_core.capabilities import Capabilities
from medsam3_core.errors import UnsupportedPromptError, UsageError
from medsam3_core.inference.baselines import BASELINES, BaselineSegmenter, fill_box, otsu_threshold
from medsam3_core.inference.protocol import Segmenter
from medsam3_core.prompts.prompts import BoxPrompt, PointPrompt, SlicePrompt
from medsam3_core.settings.inference import InferenceSettings

SETTINGS = InferenceSettings()
BOX, OTSU = BASELINES["baseline:box"], BASELINES["baseline:otsu"]


def image(shape_yx, background, *blocks):
    """RGB slice of one grey value with blocks (grey, y0, y1, x0, x1)."""
    grey = np.full(shape_yx, background, dtype=np.uint8)
    for value, y0, y1, x0, x1 in blocks:
        grey[y0:y1, x0:x1] = value
    return np.repeat(grey[..., None], 3, axis=2)


def answer(segmenter: Segmenter, picture, *boxes):
    (encoding,) = segmenter.encode([picture], SETTINGS)
    (found,) = segmenter.segment(encoding, [SlicePrompt("liver", boxes=boxes)], SETTINGS)
    return found


def block(shape_yx, y0, y1, x0, x1):
    mask = np.zeros(shape_yx, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_box_fills_every_box_with_score_1():
    found = answer(BOX, image((10, 12), 0), BoxPrompt(1, 2, 4, 6), BoxPrompt(3, 0, 12, 10))
    assert np.array_equal(found.masks[0], block((10, 12), 2, 6, 1, 4))
    assert np.array_equal(found.masks[1], block((10, 12), 0, 10, 3, 12))
    assert found.scores.tolist() == [1, 1]
    assert found.boxes_xyxy.tolist() == [[1, 2, 4, 6], [3, 0, 12, 10]]


@pytest.mark.parametrize(
    ("box", "filled"),
    [
        (BoxPrompt(1.4, 2.6, 3.6, 4.4), (3, 4, 1, 4)),
        (BoxPrompt(2.6, 2.6, 2.9, 2.9), (2, 3, 2, 3)),
        (BoxPrompt(9.9, 9.9, 10, 10), (9, 10, 9, 10)),
    ],
)
def test_a_fractional_box_fills_the_pixels_whose_centre_it_holds_and_at_least_one(box, filled):
    assert np.array_equal(answer(BOX, image((10, 10), 0), box).masks[0], block((10, 10), *filled))


@pytest.mark.parametrize(("structure", "background"), [(200, 50), (50, 200)])
def test_otsu_takes_the_side_that_differs_from_the_rim(structure, background):
    picture = image((20, 20), background, (structure, 6, 10, 7, 12))
    found = answer(OTSU, picture, BoxPrompt(5, 4, 14, 12))
    assert np.array_equal(found.masks[0], block((20, 20), 6, 10, 7, 12))
    assert found.boxes_xyxy.tolist() == [[7, 6, 12, 10]]
    assert found.scores.tolist() == [1]


def test_otsu_compares_with_the_part_of_the_rim_that_lies_on_the_slice():
    picture = image((10, 10), 30, (90, 0, 5, 0, 10), (30, 1, 4, 1, 9))  # a frame in the upper half, only row 5 is rim
    frame = block((10, 10), 0, 5, 0, 10) & ~block((10, 10), 1, 4, 1, 9)
    assert np.array_equal(answer(OTSU, picture, BoxPrompt(0, 0, 10, 5)).masks[0], frame)


def test_otsu_compares_with_the_border_of_a_box_that_covers_the_slice():
    # The bright block is most of the slice, so the mean of all pixels would call the dark frame the structure.
    picture = image((10, 10), 30, (90, 1, 9, 1, 9))
    assert np.array_equal(answer(OTSU, picture, BoxPrompt(0, 0, 10, 10)).masks[0], block((10, 10), 1, 9, 1, 9))


def test_otsu_fills_a_box_of_one_grey_value():
    found = answer(OTSU, image((10, 10), 90), BoxPrompt(2, 3, 5, 5))
    assert np.array_equal(found.masks[0], block((10, 10), 3, 5, 2, 5))


def test_otsu_threshold_splits_two_grey_values_between_them():
    assert 10 <= otsu_threshold(np.array([[10, 10, 10, 200]], dtype=np.uint8)) < 200
    assert otsu_threshold(np.array([[7, 7]], dtype=np.uint8)) is None


def test_otsu_threshold_maximises_the_variance_between_both_sides():
    grey = np.random.default_rng(0).integers(0, 256, size=(9, 9)).astype(np.uint8)

    def variance(threshold):
        low, high = grey[grey <= threshold], grey[grey > threshold]
        return low.size * high.size * (low.mean() - high.mean()) ** 2

    best = max((value for value in range(255) if grey.min() <= value < grey.max()), key=variance)
    assert variance(otsu_threshold(grey)) == pytest.approx(variance(best))


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        (SlicePrompt("liver", text="liver"), "text"),
        (SlicePrompt("liver", text="liver", boxes=(BoxPrompt(0, 0, 1, 1),)), "text"),
        (SlicePrompt("liver", points=((PointPrompt(1, 1),),)), "points"),
        (SlicePrompt("liver", boxes=(BoxPrompt(0, 0, 1, 1, positive=False),)), "negative boxes"),
    ],
)
def test_anything_but_positive_boxes_is_refused(name, prompt, kind):
    (encoding,) = BASELINES[name].encode([image((4, 4), 0)], SETTINGS)
    with pytest.raises(UnsupportedPromptError, match=f"{name} takes positive boxes only, .* 'liver' holds {kind}; use"):
        BASELINES[name].segment(encoding, [prompt], SETTINGS)


def test_a_box_outside_the_slice_is_refused():
    with pytest.raises(UsageError, match=r"box 0,0,5,2 leaves the slice of 4 x 3 pixels"):
        answer(BOX, image((3, 4), 0), BoxPrompt(0, 0, 5, 2))


def test_a_slice_of_another_type_is_refused():
    with pytest.raises(ValueError, match=r"a slice is uint8 of shape \(y, x, 3\), got float64 \(2, 2\)"):
        BOX.encode([np.zeros((2, 2))], SETTINGS)


def test_identity_is_id_and_version():
    assert list(BASELINES) == ["baseline:box", "baseline:otsu"]
    assert BOX.digest != OTSU.digest
    assert len(BOX.digest) == 64
    assert BaselineSegmenter("baseline:box", 2, fill_box).digest != BOX.digest
    assert BOX.capabilities == Capabilities(text=False, box=True)
    assert pickle.loads(pickle.dumps(OTSU)) == OTSU
