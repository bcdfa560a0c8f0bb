from dataclasses import asdict

import numpy as np
import pytest

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import UsageError
from medsam3_core.prompts.files import objects_apart, prompt_row, validate_rows
from medsam3_core.prompts.prompts import BoxPrompt, PointPrompt
from medsam3_core.prompts.rows import PromptRow, RowKind, mask_to_runs, runs_to_mask, slice_prompts
from medsam3_core.settings.inference import PromptMode

SHAPE_YX = (8, 10)
GEOMETRY = VolumeGeometry.pixel_grid((3, *SHAPE_YX))


def box(x0, y0, x1, y1, *, z=0, structure="liver", instance=0, label=1):
    return PromptRow("a", z, structure, instance, RowKind.BOX, x0=x0, y0=y0, x1=x1, y1=y1, label=label)


def point(x, y, label=1, *, instance=0):
    return PromptRow("a", 0, "liver", instance, RowKind.POINTS, x=x, y=y, label=label)


def text(asked, *, z=0, structure="liver"):
    return PromptRow("a", z, structure, 0, RowKind.TEXT, text=asked)


def cells(**changes):
    """A box row as a CSV reader gives it."""
    row = {
        "case_id": "a",
        "slice": "1",
        "structure": "liver",
        "kind": "box",
        "x0": "1",
        "y0": "2",
        "x1": "4",
        "y1": "6",
    }
    return {**row, **changes}


@pytest.mark.parametrize(
    ("mask", "runs"),
    [
        ([[0, 0], [0, 0]], (4,)),
        ([[1, 1], [1, 1]], (0, 4)),
        ([[0, 1], [1, 0]], (1, 2, 1)),
        ([[1, 0], [0, 1]], (0, 1, 2, 1)),
    ],
)
def test_mask_runs_start_with_background_and_read_back(mask, runs):
    mask = np.array(mask, dtype=bool)
    assert mask_to_runs(mask) == runs
    assert np.array_equal(runs_to_mask(runs, (2, 2)), mask)


def test_mask_runs_of_another_slice_size_are_refused():
    with pytest.raises(UsageError, match=r"mask runs cover 5 pixels, the slice has 2 x 2 = 4"):
        runs_to_mask((2, 3), (2, 2))


def test_rows_become_one_prompt_per_structure_and_slice():
    rows = [box(0, 0, 2, 2, z=2), text("liver"), box(1, 1, 3, 4), text("spleen", structure="spleen")]
    prompts = slice_prompts(rows, SHAPE_YX)
    assert list(prompts) == [0, 2]
    liver, spleen = prompts[0]
    assert (liver.structure, liver.text, liver.boxes) == ("liver", "liver", (BoxPrompt(1, 1, 3, 4),))
    assert (spleen.structure, spleen.text, spleen.boxes) == ("spleen", "spleen", ())
    assert not liver.per_instance


def test_points_are_grouped_by_instance():
    (prompt,) = slice_prompts([point(1, 1, instance=1), point(5, 5, instance=2), point(2, 1, 0, instance=1)], SHAPE_YX)[
        0
    ]
    assert prompt.points == ((PointPrompt(1, 1), PointPrompt(2, 1, positive=False)), (PointPrompt(5, 5),))
    assert prompt.per_instance


def test_a_box_labelled_0_is_a_counter_example_and_one_without_label_is_positive():
    (prompt,) = slice_prompts([box(0, 0, 1, 1, label=0), box(2, 2, 3, 3, label=None)], SHAPE_YX)[0]
    assert [one.positive for one in prompt.boxes] == [False, True]


def test_two_texts_for_one_structure_are_refused():
    with pytest.raises(UsageError, match="case 'a' slice 0 has 2 texts for 'liver': 'liver', 'hepar'"):
        slice_prompts([text("liver"), text("hepar")], SHAPE_YX)


def test_rows_of_two_cases_are_refused():
    other = PromptRow("b", 0, "liver", 0, RowKind.TEXT, text="liver")
    with pytest.raises(ValueError, match=r"rows of one case are expected, got \['a', 'b'\]"):
        slice_prompts([text("liver"), other], SHAPE_YX)


def test_a_row_of_texts_and_empty_cells_is_read():
    row = prompt_row(cells(text="", x=None, label=float("nan")), 1)
    assert asdict(row) == asdict(box(1.0, 2.0, 4.0, 6.0, z=1, label=None))


def test_runs_are_read_from_a_list_or_from_text():
    mask = {"case_id": "a", "slice": 0, "structure": "liver", "instance": 2, "kind": "mask"}
    from_list, from_text = (prompt_row({**mask, "mask_rle": runs}, 1) for runs in ([1, 2, 77], "1 2 77"))
    assert from_list == from_text
    assert from_text.mask_rle == (1, 2, 77)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"kind": "circle"},
            "row 7 of the prompts: unknown kind 'circle'; the kinds are: text, box, points, mask",
        ),
        ({"kind": ""}, "unknown kind ''"),
        ({"xmin": 3}, "unknown column 'xmin'; the columns are: case_id, slice"),
        ({"y1": ""}, "y1 is missing; a row of kind box needs: case_id, slice, structure, x0, y0, x1, y1"),
        ({"structure": " "}, "structure is missing"),
        ({"text": "liver"}, "text='liver' is not read by kind box; leave it empty or change the kind"),
        ({"x0": "left"}, "x0='left' is not a finite number"),
        ({"x0": "inf"}, "x0='inf' is not a finite number"),
        ({"slice": "1.5"}, "slice='1.5' is not a whole number"),
        ({"instance": -1}, "instance=-1 is negative; give 0 for the structure as a whole"),
        ({"label": 2}, r"label=2 is neither 1 \(positive\) nor 0 \(negative\)"),
        ({"x1": "1"}, "box 1,2,1,6 is empty or inverted; give x0<x1 and y0<y1"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_with_number_value_and_remedy(changes, complaint):
    with pytest.raises(UsageError, match=complaint):
        prompt_row(cells(**changes), 7)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (box(1, 1, 2, 2, z=3), r"row 2 of the prompts: slice=3 does not exist in case 'a'; give 0\.\.2"),
        (box(1, 1, 11, 2), r"box 1,1,11,2 leaves the slice of 10 x 8 pixels; give x in 0\.\.10 and y in 0\.\.8"),
        (box(-1, 1, 2, 2), "box -1,1,2,2 leaves the slice"),
        (box(5, 1, 2, 2), "box 5,1,2,2 is empty or inverted"),
        (box(1, 1, 2, None), "a box prompt of .* lacks y1; add it"),
        (point(10, 0), r"point 10,0 lies outside the slice of 10 x 8 pixels; give x in 0\.\.9 and y in 0\.\.7"),
        (PromptRow("a", 0, "liver", 0, RowKind.MASK, mask_rle=(3,)), "row 2 of the prompts: mask runs cover 3 pixels"),
    ],
)
def test_a_row_that_does_not_fit_its_volume_is_refused(row, complaint):
    with pytest.raises(UsageError, match=complaint):
        validate_rows([box(0, 0, 10, 8), row], GEOMETRY)


def test_rows_on_the_very_edge_fit():
    validate_rows([box(0, 0, 10, 8, z=2), point(9, 7), text("liver")], GEOMETRY)


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        (PromptMode.CONCEPT, ["liver 1", "liver 2", "liver 1", "liver", "liver 2", "liver"]),
        (PromptMode.INTERACTIVE, ["liver 1", "liver 2", "liver 1", "liver 3", "liver 2", "liver"]),
    ],
)
def test_objects_to_be_drawn_get_names_of_their_own_and_examples_stay_together(mode, names):
    rows = [
        point(1, 1, instance=1),
        point(5, 5, instance=2),
        point(2, 1, 0, instance=1),
        box(1, 1, 3, 4, instance=3),
        box(4, 4, 6, 6, instance=2),
        point(7, 7),
    ]
    assert [row.structure for row in objects_apart(rows, mode)] == names
