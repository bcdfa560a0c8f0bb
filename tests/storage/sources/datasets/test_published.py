"""Every dataset of the field, from its published layout to counts, splits, patients, structures and scores."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medsam3_core.cases.geometry import LengthUnit
from medsam3_core.cases.recipes import Recipe
from storage.sources.listing.layout import Layout
from storage.sources.listing.recipes import builtin_recipes
from storage.sources.registry import find_reader
from tests.storage.sources.datasets.drawn import Published

ASKED_FOR_BY_NAME = {"btcv_8"}
Tables = dict[str, list[dict[str, Any]]]


@pytest.mark.parametrize("reader", ["auto", "by name"])
def test_cases_splits_patients_and_raters_are_those_drawn(published: Published, reader: str) -> None:
    if reader == "by name" and published.recipe not in builtin_recipes():
        pytest.skip("a common layout, whose recipe comes from the data")
    if reader == "auto" and published.recipe in ASKED_FOR_BY_NAME:
        pytest.skip("a variant that auto never takes")
    layout, recipe = find_reader(str(published.folder), "auto" if reader == "auto" else published.recipe)
    assert recipe.name == published.recipe
    listed = {case.case_id: case for case in layout.list_cases(published.folder, recipe)}
    assert listed.keys() == published.cases.keys()
    for case_id, drawn in published.cases.items():
        case = listed[case_id]
        assert (case.reject_reason, case.split, case.patient_id) == (None, drawn.split, drawn.patient or case_id)
    assert tuple(structure.name for structure in recipe.structures) == published.structures
    assert {item.name for item in recipe.structures if item.instances} == published.per_instance


def test_voxels_references_and_instances_are_those_drawn(published: Published) -> None:
    layout, recipe = reader_of(published)
    for case in layout.list_cases(published.folder, recipe):
        drawn, volume = published.cases[case.case_id], layout.read_case(published.folder, case, recipe)
        np.testing.assert_array_equal(volume.voxels, drawn.voxels)
        unit = LengthUnit.MILLIMETRE if drawn.spacing else LengthUnit.PIXEL
        assert volume.geometry.unit is unit
        assert volume.geometry.spacing_zyx == pytest.approx(drawn.spacing or (1.0, 1.0, 1.0))
        assert [reference.rater for reference in volume.references] == list(drawn.references)
        for reference in volume.references:
            for structure in published.structures:
                np.testing.assert_array_equal(
                    reference.mask(structure), drawn.mask(structure, reference.rater), err_msg=structure
                )
                if structure in published.per_instance:
                    found = reference.instances(structure)
                    for number, mask in enumerate(drawn.references[reference.rater].get(structure, []), start=1):
                        np.testing.assert_array_equal(found == number, mask)


def reader_of(published: Published) -> tuple[Layout, Recipe]:
    return find_reader(str(published.folder), published.recipe if published.recipe in builtin_recipes() else "auto")


def test_a_folder_of_any_name_is_recognised(published: Published, tmp_path: Path) -> None:
    if published.recipe in ASKED_FOR_BY_NAME or published.recipe not in builtin_recipes():
        pytest.skip("not a recipe that auto takes")
    moved = tmp_path / "data"
    moved.symlink_to(published.folder)
    assert find_reader(str(moved))[1].name == published.recipe


def test_every_case_is_in_the_store_with_its_split_and_patient(
    published: Published, field_tables: Tables, request: pytest.FixtureRequest
) -> None:
    cohort = request.node.callspec.params["published"]
    rows = [row for row in field_tables["cases"] if row["cohort"] == cohort]
    assert {row["case_id"]: (row["status"], row["split"], row["patient_id"]) for row in rows} == {
        case_id: ("accepted", drawn.split, drawn.patient or case_id) for case_id, drawn in published.cases.items()
    }
    for row in rows:
        drawn = published.cases[row["case_id"]]
        assert row["structures"] == sorted(name for name in published.structures if drawn.mask(name).any())
        assert row["raters"] == list(drawn.references)


def test_the_box_baseline_scores_what_boxes_on_the_drawn_masks_score(
    published: Published, field_tables: Tables, request: pytest.FixtureRequest
) -> None:
    cohort = request.node.callspec.params["published"]
    rows = [row for row in field_tables["scores"] if row["cohort"] == cohort]
    expected = {
        (case_id, rater, structure): drawn.box_dice(structure, rater, per_instance=structure in published.per_instance)
        for case_id, drawn in published.cases.items()
        for rater in drawn.references
        for structure in published.structures
    }
    assert {(row["case_id"], row["rater"], row["structure"]): row["dice"] for row in rows} == pytest.approx(
        {key: value for key, value in expected.items() if value is not None}
        | {key: None for key, value in expected.items() if value is None}
    )
