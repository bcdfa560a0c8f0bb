import time

import numpy as np
import pytest

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.structures import LabelEntry, LabelMap, Structure
from medsam3_core.errors import CaseDataError
from medsam3_core.prompts.generation import MAX_INSTANCES, CappedInstances, generate_prompts
from medsam3_core.prompts.policies import PromptPolicy
from medsam3_core.prompts.rows import RowKind, runs_to_mask, slice_prompts

LIVER = Structure("liver", "liver organ")
SPLEEN = Structure("spleen", "spleen organ")
NUCLEI = Structure("nuclei", "cell nucleus", instances=True)


def label_map(shape_zyx, entries, *blocks):
    """A label map of blocks (value, z, y0, y1, x0, x1), later ones on top."""
    voxels = np.zeros(shape_zyx, dtype=np.uint16)
    for value, z, y0, y1, x0, x1 in blocks:
        voxels[z, y0:y1, x0:x1] = value
    return LabelMap(voxels, VolumeGeometry.pixel_grid(shape_zyx), entries)


def generate(policy, reference, *structures, case_id="case", prompt_id="0123456789ab"):
    geometry = reference.geometry
    return generate_prompts(PromptPolicy.parse(policy), prompt_id, case_id, reference, geometry, structures)


def edges(rows):
    return [(row.slice, row.structure, row.instance, row.x0, row.y0, row.x1, row.y1) for row in rows]


def two_organs():
    """Liver on slices 1 (12 px) and 2 (20 px), spleen on slice 2 alone; slice 0 is empty."""
    return label_map(
        (3, 20, 30),
        (LabelEntry(1, "liver"), LabelEntry(2, "spleen")),
        (1, 1, 2, 5, 10, 14),
        (1, 2, 2, 6, 10, 15),
        (2, 2, 10, 11, 29, 30),
    )


def test_text_is_asked_on_every_slice_for_every_structure_without_a_reference():
    geometry = VolumeGeometry.pixel_grid((3, 4, 4))
    made = generate_prompts(PromptPolicy.parse("text"), "id", "case", None, geometry, [LIVER, SPLEEN])
    asked = [(row.slice, row.structure, row.text, row.kind) for row in made.rows]
    assert asked == [(z, item.name, item.text, RowKind.TEXT) for z in range(3) for item in (LIVER, SPLEEN)]


def test_text_on_reference_slices_skips_slices_without_the_structure():
    rows = generate("text:slices=reference", two_organs(), LIVER, SPLEEN).rows
    assert [(row.slice, row.structure) for row in rows] == [(1, "liver"), (2, "liver"), (2, "spleen")]


def test_boxes_are_half_open_and_stand_on_every_slice_that_holds_the_structure():
    rows = generate("box", two_organs(), LIVER, SPLEEN).rows
    assert edges(rows) == [
        (1, "liver", 0, 10, 2, 14, 5),
        (2, "liver", 0, 10, 2, 15, 6),
        (2, "spleen", 0, 29, 10, 30, 11),
    ]


def test_key_slice_is_the_one_of_the_largest_area():
    rows = generate("box:slices=key", two_organs(), LIVER, SPLEEN).rows
    assert [(row.slice, row.structure) for row in rows] == [(2, "liver"), (2, "spleen")]


def test_of_equal_areas_the_first_slice_is_the_key_slice():
    reference = label_map(
        (4, 9, 9), (LabelEntry(1, "liver"),), *((1, z, 2, 4, 2, 2 + z) for z in range(3)), (1, 3, 0, 1, 0, 4)
    )
    assert [row.slice for row in generate("box:slices=key", reference, LIVER).rows] == [2]


def test_text_and_box_stand_together_where_the_structure_is():
    rows = generate("text+box", two_organs(), LIVER).rows
    assert [(row.slice, row.kind) for row in rows] == [(1, "text"), (1, "box"), (2, "text"), (2, "box")]


def test_a_structure_that_the_reference_lacks_gets_no_box():
    assert generate("box", two_organs(), Structure("kidney", "kidney")).rows == ()
    assert generate("box:slices=key", two_organs(), Structure("kidney", "kidney")).rows == ()


def test_a_value_that_belongs_to_two_structures_counts_for_both():
    entries = (LabelEntry(1, "liver"), LabelEntry(2, "liver"), LabelEntry(2, "tumour"))
    reference = label_map((1, 20, 20), entries, (1, 0, 2, 10, 2, 10), (2, 0, 8, 14, 4, 6))
    rows = generate("box", reference, LIVER, Structure("tumour", "tumour")).rows
    assert edges(rows) == [(0, "liver", 0, 2, 2, 10, 14), (0, "tumour", 0, 4, 8, 6, 14)]


def three_nuclei():
    """Values 5, 7, 9 are nuclei 1..3; the first comes in two pieces."""
    entries = (LabelEntry(5, "nuclei", 1), LabelEntry(7, "nuclei", 2), LabelEntry(9, "nuclei", 3))
    blocks = ((5, 0, 0, 2, 0, 2), (5, 0, 0, 2, 5, 6), (7, 0, 5, 8, 5, 8), (9, 0, 5, 8, 8, 9))
    return label_map((1, 10, 10), entries, *blocks)


def test_instances_of_the_reference_get_a_box_each():
    boxes = [(0, "nuclei", 1, 0, 0, 6, 2), (0, "nuclei", 2, 5, 5, 8, 8), (0, "nuclei", 3, 8, 5, 9, 8)]
    assert edges(generate("box", three_nuclei(), NUCLEI).rows) == boxes
    assert edges(generate("box:per=structure", three_nuclei(), NUCLEI).rows) == [(0, "nuclei", 0, 0, 0, 9, 8)]


def test_a_structure_without_instances_is_split_into_connected_components():
    reference = label_map(
        (1, 10, 10), (LabelEntry(1, "liver"),), (1, 0, 6, 8, 1, 3), (1, 0, 1, 2, 4, 6), (1, 0, 2, 3, 6, 7)
    )
    rows = generate("box:per=instance", reference, LIVER).rows
    assert edges(rows) == [(0, "liver", 1, 4, 1, 7, 3), (0, "liver", 2, 1, 6, 3, 8)]


def test_instances_above_the_cap_are_left_out_smallest_first_and_reported():
    count = MAX_INSTANCES + 3
    voxels = np.zeros((1, 3, 2 * count), dtype=np.uint16)
    voxels[0, :2, ::2] = np.arange(1, count + 1)
    voxels[0, 1, 0:6:2] = 0  # the first three have one pixel, the others two
    entries = tuple(LabelEntry(value, "nuclei", value) for value in range(1, count + 1))
    made = generate("box", LabelMap(voxels, VolumeGeometry.pixel_grid(voxels.shape), entries), NUCLEI)
    assert [row.instance for row in made.rows] == list(range(4, count + 1))
    assert made.capped == (CappedInstances(0, "nuclei", count, MAX_INSTANCES),)


def test_jitter_moves_each_edge_by_at_most_its_share_and_differs_between_slices():
    reference = label_map((40, 100, 100), (LabelEntry(1, "liver"),), *((1, z, 30, 70, 40, 60) for z in range(40)))
    rows = generate("box:jitter=0.1", reference, LIVER).rows
    boxes = np.array([(row.x0, row.y0, row.x1, row.y1) for row in rows])
    moves = boxes - (40, 30, 60, 70)
    assert np.abs(moves).max(axis=0) == pytest.approx([2, 4, 2, 4], rel=0.2)
    assert (np.abs(moves) <= (2, 4, 2, 4)).all()
    assert len(np.unique(moves)) == moves.size


def test_jitter_keeps_boxes_on_the_slice_and_at_least_one_pixel_wide():
    reference = label_map((60, 6, 7), (LabelEntry(1, "liver"),), *((1, z, 5, 6, 0, 2) for z in range(60)))
    rows = generate("box:jitter=3", reference, LIVER).rows
    boxes = np.array([(row.x0, row.y0, row.x1, row.y1) for row in rows])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (7, 6)).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()


@pytest.mark.parametrize("policy", ["box:jitter=0.2", "points:pos=3,neg=3"])
def test_a_prompt_depends_on_its_own_case_structure_and_slice_alone(policy):
    alone = generate(policy, two_organs(), SPLEEN).rows
    among = tuple(row for row in generate(policy, two_organs(), LIVER, SPLEEN).rows if row.structure == "spleen")
    assert alone == among


@pytest.mark.parametrize("other", [{"case_id": "other"}, {"prompt_id": "ffffffffffff"}])
def test_another_case_or_prompt_id_gives_other_random_numbers(other):
    assert edges(generate("box:jitter=0.2", two_organs(), LIVER).rows) != edges(
        generate("box:jitter=0.2", two_organs(), LIVER, **other).rows
    )


def points(rows, label):
    return [(row.x, row.y) for row in rows if row.label == label]


def test_the_first_point_is_the_innermost_pixel():
    reference = label_map((1, 20, 20), (LabelEntry(1, "liver"),), (1, 0, 4, 9, 10, 15))
    assert points(generate("points", reference, LIVER).rows, 1) == [(12, 6)]


def test_the_edge_of_the_slice_counts_as_outside():
    reference = label_map((1, 5, 5), (LabelEntry(1, "liver"),), (1, 0, 0, 5, 0, 5))
    assert points(generate("points", reference, LIVER).rows, 1) == [(2, 2)]


def test_further_points_are_distinct_and_inside_and_negatives_outside_in_the_grown_box():
    reference = label_map((1, 40, 40), (LabelEntry(1, "liver"),), (1, 0, 10, 18, 10, 26), (0, 0, 10, 14, 10, 18))
    rows = generate("points:pos=30,neg=50", reference, LIVER).rows
    inside, outside = points(rows, 1), points(rows, 0)
    assert len(set(inside)) == 30
    assert len(set(outside)) == 50
    assert all(reference.voxels[0, int(y), int(x)] == 1 for x, y in inside)
    assert all(reference.voxels[0, int(y), int(x)] == 0 for x, y in outside)
    assert all(8 <= x < 28 and 9 <= y < 19 for x, y in outside)  # 16 x 8 pixels grown by 25 % are 20 x 10


def test_a_negative_point_of_one_instance_is_on_no_other_instance():
    rows = generate("points:neg=20", three_nuclei(), NUCLEI).rows
    assert all(three_nuclei().voxels[0, int(y), int(x)] == 0 for x, y in points(rows, 0))


def test_too_small_a_structure_gives_all_its_pixels():
    reference = label_map((1, 5, 5), (LabelEntry(1, "liver"),), (1, 0, 1, 2, 1, 4))
    assert sorted(points(generate("points:pos=9", reference, LIVER).rows, 1)) == [(1, 1), (2, 1), (3, 1)]


def test_negatives_leave_the_grown_box_only_where_the_structure_fills_it():
    filled = label_map((1, 9, 40), (LabelEntry(1, "liver"),), (1, 0, 0, 9, 0, 39))
    assert {x for x, _ in points(generate("points:neg=5", filled, LIVER).rows, 0)} == {39}
    # Two instances side by side: the grown box of the first lies inside the structure.
    entries = (LabelEntry(1, "nuclei", 1), LabelEntry(2, "nuclei", 2))
    hidden = label_map((1, 9, 40), entries, (2, 0, 0, 9, 0, 39), (1, 0, 4, 5, 4, 5))
    first = [row for row in generate("points:neg=5", hidden, NUCLEI).rows if row.instance == 1]
    assert {x for x, _ in points(first, 0)} == {39}


def test_a_structure_that_fills_the_slice_has_no_negatives():
    full = label_map((1, 5, 5), (LabelEntry(1, "liver"),), (1, 0, 0, 5, 0, 5))
    assert points(generate("points:neg=5", full, LIVER).rows, 0) == []


def test_masks_are_those_of_the_reference():
    rows = generate("mask", two_organs(), LIVER, SPLEEN).rows
    assert {row.structure for row in rows} == {"liver", "spleen"}
    for row in rows:
        expected = two_organs().mask(row.structure)[row.slice]
        assert np.array_equal(runs_to_mask(row.mask_rle, expected.shape), expected)


def test_generated_rows_become_slice_prompts():
    prompts = slice_prompts(generate("box", three_nuclei(), NUCLEI).rows, (10, 10))
    (prompt,) = prompts[0]
    assert len(prompt.boxes) == 3
    assert prompt.per_instance


def test_label_values_of_any_size_are_found():
    voxels = np.zeros((1, 6, 6), dtype=np.uint32)
    voxels[0, 1:3, 2:5] = 4_000_000_000
    reference = LabelMap(voxels, VolumeGeometry.pixel_grid((1, 6, 6)), (LabelEntry(4_000_000_000, "liver"),))
    assert edges(generate("box", reference, LIVER).rows) == [(0, "liver", 0, 2, 1, 5, 3)]


def test_a_policy_that_reads_the_reference_refuses_a_case_without():
    with pytest.raises(CaseDataError, match="case 'c' has no reference, which prompt policy box:jitter=0,per=auto"):
        generate_prompts(PromptPolicy.parse("box"), "id", "c", None, VolumeGeometry.pixel_grid((1, 2, 2)), [LIVER])


def test_a_reference_of_another_shape_is_refused():
    with pytest.raises(CaseDataError, match=r"case 'c': reference has shape \(3, 20, 30\), the volume \(1, 2, 2\)"):
        generate_prompts(
            PromptPolicy.parse("box"), "id", "c", two_organs(), VolumeGeometry.pixel_grid((1, 2, 2)), [LIVER]
        )


def test_thirty_structures_cost_one_pass_over_the_slices():
    voxels = np.zeros((20, 512, 512), dtype=np.uint8)
    for value in range(30):
        y, x = 80 * (value // 6), 80 * (value % 6)
        voxels[:, y : y + 70, x : x + 70] = value + 1
    structures = [Structure(f"organ{value}", "organ") for value in range(1, 31)]
    entries = tuple(LabelEntry(value, f"organ{value}") for value in range(1, 31))
    reference = LabelMap(voxels, VolumeGeometry.pixel_grid(voxels.shape), entries)
    started = time.perf_counter()
    made = generate("box:jitter=0.1", reference, *structures)
    assert len(made.rows) == 600
    assert time.perf_counter() - started < 5  # about 0.1 s; a mask of the volume per structure and slice takes minutes
