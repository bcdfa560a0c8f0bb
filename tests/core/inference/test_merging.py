import numpy as np
import pytest

from medsam3_core.errors import UnsupportedPromptError
from medsam3_core.inference.merging import merge_instances, number_instances
from medsam3_core.inference.protocol import SliceInstances
from medsam3_core.prompts.prompts import BoxPrompt, PointPrompt, SlicePrompt
from medsam3_core.settings.inference import InferenceSettings, Merge, PromptMode

SHAPE_YX = (4, 12)


def columns(*instances, semantic=None):
    """Instances (score, x0, x1) that fill the columns [x0, x1); the semantic mask likewise; presence is 0.7."""
    masks = np.zeros((len(instances), *SHAPE_YX), dtype=bool)
    for mask, (_, x0, x1) in zip(masks, instances, strict=True):
        mask[:, x0:x1] = True
    boxes = np.array([(x0, 0, x1, SHAPE_YX[0]) for _, x0, x1 in instances], dtype=np.float32).reshape(-1, 4)
    scores = np.array([score for score, _, _ in instances], dtype=np.float32)
    drawn = None
    if semantic is not None:
        drawn = np.zeros(SHAPE_YX, dtype=bool)
        drawn[:, semantic[0] : semantic[1]] = True
    return SliceInstances(masks, scores, boxes, drawn, ("noted",), 0.7)


def box(x0, x1, **more):
    return BoxPrompt(x0, 0, x1, SHAPE_YX[0], **more)


def merged(instances, prompt, **settings):
    kept = merge_instances(instances, prompt, InferenceSettings(**settings))
    assert kept.fallbacks == instances.fallbacks
    return [int(np.flatnonzero(mask[0])[0]) for mask in kept.masks]  # first column names the instance


THREE = ((0.6, 0, 3), (0.9, 4, 8), (0.7, 9, 12))
TEXT = SlicePrompt("liver", text="liver")
ONE_BOX = SlicePrompt("liver", boxes=(box(0, 5),))
BOX_PER_INSTANCE = SlicePrompt("liver", boxes=(box(0, 3),), per_instance=True)


@pytest.mark.parametrize(
    ("prompt", "settings", "kept"),
    [
        (TEXT, {}, [0, 4, 9]),
        (TEXT, {"threshold": 0.65}, [4, 9]),
        (ONE_BOX, {}, [0]),
        (ONE_BOX, {"threshold": 0.65}, [4]),
        (BOX_PER_INSTANCE, {}, [0, 4, 9]),
        (ONE_BOX, {"mode": PromptMode.INTERACTIVE}, [0, 4, 9]),
        (SlicePrompt("liver", text="liver", boxes=(box(0, 5),)), {}, [0, 4, 9]),
        (SlicePrompt("liver", boxes=(box(0, 3), box(9, 12))), {}, [0, 4, 9]),
        (SlicePrompt("liver", boxes=(box(0, 3), box(9, 12, positive=False))), {}, [0]),
        (SlicePrompt("liver", points=((PointPrompt(1, 1),),)), {"mode": PromptMode.INTERACTIVE}, [0, 4, 9]),
        (ONE_BOX, {"merge": Merge.UNION}, [0, 4, 9]),
        (TEXT, {"merge": Merge.BEST}, [4]),
        (ONE_BOX, {"merge": Merge.TOP}, [4]),
        (SlicePrompt("liver", boxes=(box(0, 3), box(9, 12), box(0, 2))), {"merge": Merge.BEST}, [0, 9]),
    ],
)
def test_which_instances_stand_for_the_structure(prompt, settings, kept):
    assert merged(columns(*THREE), prompt, **settings) == kept


def test_of_two_instances_that_fit_the_box_alike_the_higher_score_wins():
    assert merged(columns((0.6, 0, 2), (0.8, 2, 4)), SlicePrompt("liver", boxes=(box(0, 4),))) == [2]


def test_no_instance_touches_the_box_so_none_is_kept():
    assert merged(columns((0.9, 0, 2)), SlicePrompt("liver", boxes=(box(6, 9),))) == []


def test_the_score_must_be_above_the_threshold_not_at_it():
    assert merged(columns((0.5, 0, 2)), TEXT, threshold=0.5) == []


@pytest.mark.parametrize(
    ("prompt", "mode"),
    [(SlicePrompt("liver", points=((PointPrompt(2, 2),),)), PromptMode.CONCEPT), (ONE_BOX, PromptMode.INTERACTIVE)],
)
def test_what_a_person_has_shown_is_kept_whatever_its_score(prompt, mode):
    settings = InferenceSettings(mode=mode)
    assert len(merge_instances(columns((0.1, 0, 2)), prompt, settings).scores) == 1
    assert not len(merge_instances(columns((0.9, 3, 3)), prompt, settings).scores)


def test_an_instance_without_pixels_is_not_kept():
    assert merged(columns((0.9, 3, 3), (0.6, 4, 6)), TEXT) == [4]


def two_parts():
    """A semantic mask of a square and a line that touches it at a corner, and a pixel apart."""
    drawn = columns((0.9, 0, 3), semantic=(0, 0))
    drawn.semantic[0:2, 1:3] = True
    drawn.semantic[2, 3:6] = True
    drawn.semantic[0, 9] = True
    return drawn


def test_each_connected_part_of_the_semantic_mask_is_an_instance():
    drawn = two_parts()
    kept = merge_instances(drawn, TEXT, InferenceSettings(merge=Merge.COMPONENTS))
    assert kept.masks.sum(axis=(1, 2)).tolist() == [7, 1]
    assert np.array_equal(kept.masks.any(axis=0), drawn.semantic)
    assert kept.boxes_xyxy.tolist() == [[1, 0, 6, 3], [9, 0, 10, 1]]
    assert kept.scores.tolist() == pytest.approx([0.7, 0.7])
    assert kept.fallbacks == ("noted",)


def test_components_beyond_the_limit_are_said_and_the_largest_stay(monkeypatch):
    monkeypatch.setattr("medsam3_core.inference.merging.MAX_COMPONENT_PIXELS", 4 * 12)
    kept = merge_instances(two_parts(), TEXT, InferenceSettings(merge=Merge.COMPONENTS))
    assert kept.masks.sum(axis=(1, 2)).tolist() == [7]
    assert kept.fallbacks == ("noted", "instances-capped:2>1")


@pytest.mark.parametrize("prompt", [TEXT, ONE_BOX])
@pytest.mark.parametrize("merge", [Merge.AUTO, Merge.UNION, Merge.BEST])
def test_nothing_drawn_stays_nothing(prompt, merge):
    kept = merge_instances(SliceInstances.nothing(SHAPE_YX), prompt, InferenceSettings(merge=merge))
    assert kept.masks.shape == (0, *SHAPE_YX)


def test_semantic_makes_one_instance_of_the_semantic_mask():
    drawn = columns((0.9, 0, 3), (0.6, 4, 8), semantic=(2, 10))
    kept = merge_instances(drawn, TEXT, InferenceSettings(merge=Merge.SEMANTIC))
    assert np.array_equal(kept.masks, drawn.semantic[None])
    assert kept.scores.tolist() == pytest.approx([0.7])
    assert kept.boxes_xyxy.tolist() == [[2, 0, 10, 4]]


@pytest.mark.parametrize("merge", [Merge.SEMANTIC, Merge.COMPONENTS])
def test_an_empty_semantic_mask_is_nothing_whatever_the_instances(merge):
    assert merged(columns((0.9, 0, 3), semantic=(2, 2)), TEXT, merge=merge) == []


@pytest.mark.parametrize("merge", [Merge.SEMANTIC, Merge.COMPONENTS])
def test_a_mask_of_the_semantic_head_is_refused_where_none_was_drawn(merge):
    with pytest.raises(UnsupportedPromptError, match=f"merge={merge}: there is no semantic mask for 'liver'"):
        merged(columns(*THREE), TEXT, merge=merge)


def test_labels_run_by_falling_score_and_overlaps_go_to_the_higher_score():
    labels, positions = number_instances(columns((0.6, 0, 5), (0.9, 3, 8), (0.7, 7, 10)))
    assert labels.dtype == np.uint16
    assert labels[0].tolist() == [3, 3, 3, 1, 1, 1, 1, 1, 2, 2, 0, 0]
    assert positions.tolist() == [1, 2, 0]


def test_an_instance_hidden_by_higher_scores_gets_no_number():
    labels, positions = number_instances(columns((0.5, 8, 9), (0.6, 2, 4), (0.9, 0, 5)))
    assert labels[0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 2, 0, 0, 0]
    assert positions.tolist() == [2, 0]


def test_of_equal_scores_the_earlier_instance_wins():
    labels, _ = number_instances(columns((1.0, 0, 3), (1.0, 2, 5)))
    assert labels[0].tolist() == [1, 1, 1, 2, 2, 0, 0, 0, 0, 0, 0, 0]


def test_no_instance_gives_background():
    labels, positions = number_instances(SliceInstances.nothing(SHAPE_YX))
    assert labels.shape == SHAPE_YX
    assert labels.sum() == 0
    assert positions.shape == (0,)
