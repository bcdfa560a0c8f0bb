import numpy as np
import pytest

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.structures import LabelEntry, LabelMap, Structure
from medsam3_core.errors import CaseDataError, UsageError

GEOMETRY = VolumeGeometry.pixel_grid((1, 2, 3))
VOXELS = np.array([[[0, 1, 2], [3, 3, 9]]], np.uint8)
ENTRIES = (
    LabelEntry(1, "vessel"),
    LabelEntry(2, "disc"),
    LabelEntry(3, "vessel"),
    LabelEntry(3, "disc"),
    LabelEntry(4, "cup"),
)


def test_a_value_may_belong_to_several_structures() -> None:
    labels = LabelMap(VOXELS, GEOMETRY, ENTRIES)
    assert labels.mask("vessel").tolist() == [[[False, True, False], [True, True, False]]]
    assert labels.mask("disc").sum() == 3


def test_a_structure_that_the_map_does_not_hold_is_empty() -> None:
    labels = LabelMap(VOXELS, GEOMETRY, ENTRIES)
    assert not labels.mask("cup").any()
    assert not labels.mask("unheard-of").any()
    assert labels.present_structures() == ("disc", "vessel")


def test_instances_are_numbered_as_the_map_says() -> None:
    entries = (LabelEntry(1, "nucleus", 2), LabelEntry(3, "nucleus", 1), LabelEntry(2, "other", 7))
    labels = LabelMap(VOXELS, GEOMETRY, entries)
    assert labels.instances("nucleus").tolist() == [[[0, 2, 0], [1, 1, 0]]]
    assert labels.instances("nucleus").dtype == np.uint16
    assert not labels.instances("absent").any()


def test_an_empty_map_holds_nothing() -> None:
    labels = LabelMap(np.zeros((1, 2, 3), np.uint8), GEOMETRY, ENTRIES)
    assert labels.present_structures() == ()
    assert not labels.instances("vessel").any()


def test_voxels_must_fit_the_geometry() -> None:
    with pytest.raises(CaseDataError, match=r"shape \(1, 3, 2\), its geometry \(1, 2, 3\)"):
        LabelMap(VOXELS.reshape(1, 3, 2), GEOMETRY, ENTRIES)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, bool])
def test_only_unsigned_integers_are_labels(dtype: type) -> None:
    with pytest.raises(CaseDataError, match="unsigned integers are expected"):
        LabelMap(VOXELS.astype(dtype), GEOMETRY, ENTRIES)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../a", ".a", "ä"])
def test_a_name_that_cannot_be_a_folder_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"structure name .* rename it in the recipe"):
        Structure(name, "text")


@pytest.mark.parametrize(
    ("change", "message"), [({"text": " "}, "empty text"), ({"nsd_tolerance": 0}, "must be above 0")]
)
def test_a_structure_that_cannot_be_asked_for_or_scored_is_refused(change, message) -> None:
    with pytest.raises(UsageError, match=message):
        Structure(**({"name": "liver", "text": "liver"} | change))
