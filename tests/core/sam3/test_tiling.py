"""Large slices in overlapping tiles: nothing lost at the seams, nothing counted twice."""

from dataclasses import replace

import numpy as np
import pytest

from medsam3_core.inference.protocol import SliceInstances
from medsam3_core.prompts.prompts import BoxPrompt, MaskPrompt, PointPrompt, SlicePrompt
from medsam3_core.sam3.network.tiny import untrained_weights
from medsam3_core.sam3.segmenter import Sam3Segmenter
from medsam3_core.sam3.tiling import Tile, TileAnswer, join_tiles, prompts_per_tile, tiles_of
from medsam3_core.settings.inference import Dtype, InferenceSettings, Merge


@pytest.fixture(scope="module")
def tiny():
    return Sam3Segmenter(untrained_weights())


def found(tile, *masks, scores=None, semantic=None):
    """What a tile drew, from windows (y0, x0, y1, x1) in the coordinates of the slice."""
    drawn = np.zeros((len(masks), *tile.shape_yx), dtype=bool)
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for row, (y0, x0, y1, x1) in enumerate(masks):
        drawn[row, max(0, y0 - tile.y0) : y1 - tile.y0, max(0, x0 - tile.x0) : x1 - tile.x0] = True
        boxes[row] = np.clip(
            [x0 - tile.x0, y0 - tile.y0, x1 - tile.x0, y1 - tile.y0], 0, np.tile(tile.shape_yx[::-1], 2)
        )
    given = np.array(scores or [0.9] * len(masks), dtype=np.float32)
    return TileAnswer(tile, SliceInstances(drawn, given, boxes), semantic)


LEFT, RIGHT = Tile(0, 0, 10, 12), Tile(0, 8, 10, 20)


@pytest.mark.parametrize(("shape_yx", "count"), [((100, 160), 2), ((999, 960), 4), ((5, 700), 16), ((1, 1), 3)])
def test_tiles_cover_the_slice_and_overlap(shape_yx, count):
    tiles = tiles_of(shape_yx, count)
    covered = np.zeros(shape_yx, dtype=int)
    for tile in tiles:
        covered[tile.window] += 1
    assert covered.min() == 1
    assert len(tiles) == min(count, shape_yx[0]) * min(count, shape_yx[1])
    assert len({tile.shape_yx for tile in tiles}) == 1
    if min(shape_yx) > 8 * count:
        assert covered.max() == 4


def test_text_is_asked_in_every_tile():
    tiles = tiles_of((100, 100), 2)
    assert [one.text for one in prompts_per_tile(SlicePrompt("s", text="vessel"), tiles)] == ["vessel"] * 4


def test_a_box_is_shown_where_it_lies_in_the_tiles_own_pixels():
    shown = prompts_per_tile(SlicePrompt("s", boxes=(BoxPrompt(14, 2, 18, 6),)), [LEFT, RIGHT])
    assert shown[0] is None
    assert shown[1].boxes == (BoxPrompt(6, 2, 10, 6),)


def test_a_box_over_the_seam_is_clipped_to_both_sides():
    shown = prompts_per_tile(SlicePrompt("s", boxes=(BoxPrompt(4, 0, 16, 10),)), [LEFT, RIGHT])
    assert [one.boxes[0] for one in shown] == [BoxPrompt(4, 0, 12, 10), BoxPrompt(0, 0, 8, 10)]


def test_a_tile_with_counter_examples_alone_is_not_asked_unless_there_is_text():
    boxes = (BoxPrompt(1, 1, 5, 5), BoxPrompt(15, 1, 19, 5, positive=False))
    assert prompts_per_tile(SlicePrompt("s", boxes=boxes), [LEFT, RIGHT])[1] is None
    asked = prompts_per_tile(SlicePrompt("s", text="vessel", boxes=boxes), [LEFT, RIGHT])[1]
    assert [one.positive for one in asked.boxes] == [False]


def test_points_and_masks_go_with_their_tile():
    points = SlicePrompt("s", points=((PointPrompt(17, 3), PointPrompt(1, 1, positive=False)),))
    left, right = prompts_per_tile(points, [LEFT, RIGHT])
    assert left is None
    assert right.points == ((PointPrompt(9, 3),),)
    mask = np.zeros((10, 20), dtype=bool)
    mask[2, 1] = True
    left, right = prompts_per_tile(SlicePrompt("s", masks=(MaskPrompt(mask),)), [LEFT, RIGHT])
    assert left.masks[0].mask.shape == (10, 12)
    assert right is None


def test_an_instance_over_the_seam_is_one_instance():
    joined = join_tiles([found(LEFT, (2, 4, 6, 12), scores=[0.6]), found(RIGHT, (2, 8, 6, 16), scores=[0.8])], (10, 20))
    assert joined.scores.tolist() == pytest.approx([0.8])
    assert joined.masks[0].sum() == 4 * 12
    assert joined.boxes_xyxy[0].tolist() == [4, 2, 16, 6]


def test_instances_that_disagree_on_the_overlap_stay_apart():
    joined = join_tiles([found(LEFT, (0, 4, 3, 12)), found(RIGHT, (6, 8, 9, 16), scores=[0.7])], (10, 20))
    assert joined.scores.tolist() == pytest.approx([0.9, 0.7])
    assert joined.masks.sum(axis=(1, 2)).tolist() == [24, 24]


def test_instances_away_from_the_seam_are_all_kept():
    joined = join_tiles([found(LEFT, (0, 0, 2, 2), (5, 0, 9, 4)), found(RIGHT, (0, 15, 2, 20))], (10, 20))
    assert len(joined.scores) == 3


def test_semantic_logits_are_blended_before_the_threshold():
    low, high = np.full((10, 12), -1.0, np.float32), np.full((10, 12), 3.0, np.float32)
    joined = join_tiles([found(LEFT, semantic=low), found(RIGHT, semantic=high)], (10, 20))
    assert joined.semantic[:, :8].sum() == 0
    assert joined.semantic[:, 12:].all()
    assert joined.semantic[0, 8:12].any()


def test_presence_of_a_slice_is_that_of_its_surest_tile():
    answers = [found(LEFT, (0, 0, 2, 2)), found(RIGHT)]
    told = [
        replace(answer, instances=replace(answer.instances, presence=presence))
        for answer, presence in zip(answers, (0.2, 0.8), strict=True)
    ]
    assert join_tiles(told, (10, 20)).presence == 0.8


def test_a_tile_whose_presence_is_not_above_the_threshold_adds_nothing_to_the_semantic_mask(tiny):
    image = np.random.default_rng(0).integers(0, 255, (150, 210, 3), dtype=np.uint8)

    def asked(threshold, tiles=2, shown=image):
        settings = InferenceSettings(tiles=tiles, merge=Merge.SEMANTIC, threshold=threshold, dtype=Dtype.FP32)
        (encoding,) = tiny.encode([shown], settings)
        (answer,) = tiny.segment(encoding, [SlicePrompt("s", text="vessel")], settings)
        return answer

    tiles = tiles_of((150, 210), 2)
    presences = [asked(0.0, 1, image[tile.window]).presence for tile in tiles]
    drawn = asked(0.0)
    assert drawn.presence == pytest.approx(max(presences), abs=1e-4)
    between = np.mean(sorted(presences)[-2:])  # the surest tile alone passes
    answer = asked(between)
    own = np.zeros_like(answer.semantic)
    own[tiles[int(np.argmax(presences))].window] = True
    assert answer.semantic.any()
    assert not (answer.semantic & ~own).any()


@pytest.mark.parametrize("merge", [Merge.AUTO, Merge.SEMANTIC, Merge.COMPONENTS])
def test_a_slice_in_tiles_is_answered_at_its_own_size(tiny, merge):
    image = np.random.default_rng(0).integers(0, 255, (150, 210, 3), dtype=np.uint8)
    settings = InferenceSettings(tiles=2, merge=merge, dtype=Dtype.FP32)
    prompts = [SlicePrompt("s", text="vessel"), SlicePrompt("s", boxes=(BoxPrompt(10, 10, 60, 60),))]
    (encoding,) = tiny.encode([image], settings)
    answers = tiny.segment(encoding, prompts, settings)
    assert len(encoding.encodings) == 4
    for answer in answers:
        assert answer.masks.shape[1:] == (150, 210)
        assert (np.diff(answer.scores) <= 0).all()
    assert (answers[0].semantic is not None) is merge.uses_semantic_mask
    assert not answers[1].masks[:, 80:, 120:].any()


def test_tiles_see_what_the_whole_slice_squashes_away(tiny):
    image = np.random.default_rng(1).integers(0, 255, (150, 210, 3), dtype=np.uint8)
    settings = InferenceSettings(tiles=2, threshold=0.0, dtype=Dtype.FP32)
    (encoding,) = tiny.encode([image], settings)
    (first,) = tiny.encode([image[encoding.tiles[0].window]], InferenceSettings(dtype=Dtype.FP32))
    assert np.allclose(encoding.encodings[0].to_array(), first.to_array(), atol=1e-5)
