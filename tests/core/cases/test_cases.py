from dataclasses import replace

import numpy as np
import pytest

from medsam3_core.cases.cases import CaseVolume, slug_case_id
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.structures import LabelEntry, LabelMap
from medsam3_core.errors import CaseDataError
from medsam3_core.phantoms import PhantomKind, phantom_case, phantom_recipe

SHAPE = (2, 3, 4)
GEOMETRY = VolumeGeometry.from_nifti(SHAPE, np.diag([0.7, 0.8, 3.0, 1.0]))
RECIPE = phantom_recipe(PhantomKind.CT)


def labels(**changes: object) -> LabelMap:
    values = {"voxels": np.ones(SHAPE, np.uint8), "geometry": GEOMETRY, "entries": (LabelEntry(1, "liver"),)} | changes
    return LabelMap(**values)


def case(**changes: object) -> CaseVolume:
    return CaseVolume(
        **({"voxels": np.zeros(SHAPE, np.int16), "geometry": GEOMETRY, "references": (labels(),)} | changes)
    )


@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 4), (1, 1, 2, 3, 4)])
def test_an_image_must_fit_its_geometry(shape: tuple[int, ...]) -> None:
    with pytest.raises(CaseDataError, match=r"image has shape .*\(c,\) z, y, x with \(2, 3, 4\) is expected"):
        case(voxels=np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_counted_and_refused(value: float) -> None:
    voxels = np.zeros(SHAPE, np.float32)
    voxels[0, 0, :2] = value
    with pytest.raises(CaseDataError, match="image holds 2 NaN or infinite voxels"):
        case(voxels=voxels)


def test_a_reference_elsewhere_is_refused_with_both_places() -> None:
    moved = VolumeGeometry.from_nifti(SHAPE, np.diag([0.7, 0.8, 3.1, 1.0]))
    with pytest.raises(CaseDataError, match=r"reference of 'reference' does not match the geometry.*3\.1.*resample it"):
        case(references=(labels(geometry=moved),))


def test_channels_come_first() -> None:
    assert case(voxels=np.zeros((3, *SHAPE), np.uint8)).voxels.shape == (3, 2, 3, 4)


def test_the_digest_changes_with_all_that_can_change_a_number() -> None:
    first = phantom_case(PhantomKind.CT, 0)
    structures = RECIPE.structures
    renamed = replace(RECIPE, structures=(replace(structures[0], text="the liver"), *structures[1:]))
    stretched = VolumeGeometry.from_nifti(SHAPE, np.diag([0.7, 0.8, 3.0001, 1.0]))
    digests = {
        first.digest(RECIPE),
        first.digest(renamed),
        first.digest(replace(RECIPE, window="ct:40,400")),
        case().digest(RECIPE),
        case(voxels=np.ones(SHAPE, np.int16)).digest(RECIPE),
        case(voxels=np.zeros(SHAPE, np.int32)).digest(RECIPE),
        case(geometry=stretched).digest(RECIPE),
        case(references=()).digest(RECIPE),
        case(references=(labels(rater="anna"),)).digest(RECIPE),
        case(references=(labels(entries=(LabelEntry(1, "spleen"),)),)).digest(RECIPE),
        case(references=(labels(voxels=np.zeros(SHAPE, np.uint8)),)).digest(RECIPE),
    }
    assert len(digests) == 11


def test_the_digest_ignores_what_cannot_change_a_number() -> None:
    assert case().digest(RECIPE) == case(attributes={"file": "b"}).digest(replace(RECIPE, citation="x", licence="y"))


def test_a_slug_that_changes_nothing_is_the_name_itself() -> None:
    assert slug_case_id("Image_01L") == "Image_01L"
    assert slug_case_id("scan.v2-a") == "scan.v2-a"


@pytest.mark.parametrize("path", ["a/b", "a b", "../../etc/passwd", "ä", "", ".hidden", "x" * 300, "a\nb"])
def test_any_path_becomes_a_name_that_can_be_a_file(path: str) -> None:
    slug = slug_case_id(path)
    assert 0 < len(slug) <= 100
    assert "/" not in slug
    assert slug[0] not in ".-"
    assert slug.isascii()


def test_paths_that_slug_alike_stay_apart() -> None:
    assert len({slug_case_id(path) for path in ("a/b", "a b", "a-b", "a?b", "a//b")}) == 5
