import numpy as np
import pytest

from medsam3_core.errors import UsageError
from medsam3_core.phantoms import PhantomKind, absent_structure, phantom_case, phantom_recipe, phantom_structures
from medsam3_core.phantoms.kinds import Form, Look, shape_name
from medsam3_core.phantoms.volumes import CT_HU

KINDS = list(PhantomKind)
ANATOMY = [kind for kind in KINDS if kind is not PhantomKind.SHAPES]


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_gives_the_same_case_and_another_seed_another(kind):
    recipe = phantom_recipe(kind)
    first, again, other = (phantom_case(kind, seed).digest(recipe) for seed in (7, 7, 8))
    assert first == again
    assert first != other


@pytest.mark.parametrize("kind", ANATOMY)
@pytest.mark.parametrize("seed", range(20))
def test_every_structure_is_there_except_the_one_that_is_said_to_be_absent(kind, seed):
    reference = phantom_case(kind, seed).references[0]
    present = {item.name for item in phantom_structures(kind) if reference.mask(item.name).any()}
    expected = {item.name for item in phantom_structures(kind)} - {absent_structure(kind, seed)}
    assert present == expected
    assert {entry.structure for entry in reference.entries} == expected


@pytest.mark.parametrize("kind", [PhantomKind.CT, PhantomKind.MR])
@pytest.mark.parametrize("seed", range(4))
def test_smallest_volume_still_holds_every_structure(kind, seed):
    reference = phantom_case(kind, seed, shape_zyx=(6, 32, 32)).references[0]
    assert all(reference.mask(item.name).any() for item in phantom_structures(kind))


def test_organs_have_the_hounsfield_units_of_the_table():
    case = phantom_case(PhantomKind.CT, 0)
    for structure in phantom_structures(PhantomKind.CT):
        inside = case.voxels[case.references[0].mask(structure.name)]
        assert np.median(inside) == pytest.approx(CT_HU[structure.name], abs=12), structure.name
    assert np.median(case.voxels[:, 0, 0]) == pytest.approx(CT_HU["air"], abs=25)


def test_left_kidney_lies_on_the_left_of_the_patient():
    case = phantom_case(PhantomKind.CT, 2)
    centres = {}
    for name in ("kidney_left", "kidney_right"):
        index = np.argwhere(case.references[0].mask(name)).mean(axis=0)
        centres[name] = np.asarray(case.geometry.affine_zyx_to_ras_mm) @ [*index, 1]
    assert centres["kidney_left"][0] < 0 < centres["kidney_right"][0]


def test_volumes_are_anisotropic_and_some_are_oblique():
    cases = [phantom_case(PhantomKind.CT, seed).geometry for seed in range(3)]
    assert all(geometry.spacing_zyx[0] >= 3 * geometry.spacing_zyx[1] for geometry in cases)
    oblique = [np.count_nonzero(np.abs(geometry.affine_nifti[:3, :3]) > 1e-9) > 3 for geometry in cases]
    assert oblique == [False, False, True]


def test_vessels_in_front_of_the_disc_belong_to_both():
    reference = phantom_case(PhantomKind.FUNDUS, 0).references[0]
    assert (reference.mask("vessel") & reference.mask("optic_disc")).any()


@pytest.mark.parametrize("seed", range(20))
def test_a_picture_of_shapes_holds_some_concepts_and_lacks_most(seed):
    reference = phantom_case(PhantomKind.SHAPES, seed).references[0]
    present = {item.name for item in phantom_structures(PhantomKind.SHAPES) if reference.mask(item.name).any()}
    assert present == set(reference.present_structures())
    assert 3 <= len(present) <= 15


def test_a_shape_belongs_to_its_look_its_form_and_both():
    forms, looks = list(Form), list(Look)
    for seed in range(6):
        reference = phantom_case(PhantomKind.SHAPES, seed).references[0]
        for groups in (forms, looks):
            masks = [reference.mask(group) for group in groups]
            np.testing.assert_array_equal(np.any(masks, axis=0), reference.voxels > 0)
        for form in forms:
            of_form = [reference.mask(shape_name(look, form)) for look in looks]
            np.testing.assert_array_equal(np.any(of_form, axis=0), reference.mask(form))


def test_bright_shapes_are_brighter_than_dark_ones():
    for seed in range(12):
        case = phantom_case(PhantomKind.SHAPES, seed)
        bright, dark = (case.references[0].mask(look) for look in (Look.BRIGHT, Look.DARK))
        tone = case.voxels.mean(axis=0)
        outside = np.median(tone[case.references[0].voxels == 0])
        if bright.any():
            assert np.median(tone[bright]) > outside + 15, seed
        if dark.any():
            assert np.median(tone[dark]) < outside - 10, seed


def test_left_lung_stands_on_the_right_of_the_picture():
    reference = phantom_case(PhantomKind.XRAY, 0).references[0]
    left, right = (np.nonzero(reference.mask(name))[2].mean() for name in ("lung_left", "lung_right"))
    assert left > right


def test_nuclei_are_separate_instances():
    instances = phantom_case(PhantomKind.NUCLEI, 1).references[0].instances("nucleus")
    assert set(np.unique(instances)) == set(range(instances.max() + 1))
    assert instances.max() >= 4


@pytest.mark.parametrize(
    ("kind", "seed", "shape"),
    [(PhantomKind.CT, -1, None), (PhantomKind.CT, 0, (2, 96, 96)), (PhantomKind.FUNDUS, 0, (2, 96, 96))],
)
def test_impossible_phantom_is_refused_with_its_shape(kind, seed, shape):
    with pytest.raises(UsageError, match=rf"phantom {kind} of seed {seed} .* cannot be drawn; the seed must be"):
        phantom_case(kind, seed, shape_zyx=shape)
