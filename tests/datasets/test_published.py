"""Every dataset of the field, from its published layout to counts, splits, patients, structures and scores."""

from pathlib import Path

import numpy as np
import pytest

from medsam3_core.geometry import LengthUnit
from storage.readers.registry import find_reader
from tests.datasets import published_2d
from tests.datasets.drawn import Published

WRITERS = {**published_2d.WRITERS}


@pytest.fixture(scope="session", params=WRITERS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    return WRITERS[request.param](tmp_path_factory.mktemp(request.param) / request.param)


@pytest.mark.parametrize("reader", ["auto", "by name"])
def test_cases_splits_patients_and_raters_are_those_drawn(published: Published, reader: str) -> None:
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
    layout, recipe = find_reader(str(published.folder))
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


def test_only_that_recipe_claims_the_folder(published: Published, tmp_path: Path) -> None:
    moved = tmp_path / "data"
    moved.symlink_to(published.folder)
    assert find_reader(str(moved))[1].name == published.recipe
