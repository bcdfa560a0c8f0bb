import json

import nibabel as nib
import numpy as np
import pytest

from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import Structure
from medsam3_core.errors import CaseDataError, UsageError
from medsam3_core.phantoms import PhantomKind
from storage.sources.formats.volumes.nifti import read_nifti
from storage.sources.layouts.phantom import PhantomSource
from storage.sources.registry import find_reader
from tests.phantom_files import write_nifti, write_phantom_dataset

AFFINE = np.array([[-0.8, 0.1, 0, 12.5], [0.05, -0.9, 0.2, 3.25], [0, 0.3, 5.0, -7], [0, 0, 0, 1]])
IMAGE = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
LABELS = (IMAGE // 20).astype(np.uint8)
NAMES = {"labels": {"background": 0, "liver": 1, "left kidney": 2}}


def pair(folder, image=IMAGE, labels=LABELS, affine=AFFINE, label_affine=None, names=NAMES):
    write_nifti(folder / "images" / "a.nii.gz", image, affine)
    write_nifti(folder / "labels" / "a.nii.gz", labels, affine if label_affine is None else label_affine)
    if names is not None:
        (folder / "labels.json").write_text(json.dumps(names))
    return folder


def read(folder, **parameters):
    layout, recipe = find_reader(str(folder), "nifti-pairs")
    if parameters:
        recipe = Recipe("mine", "nifti-pairs", recipe.structures, "CT", "minmax", {**recipe.parameters, **parameters})
    return layout.read_case(folder, layout.list_cases(folder, recipe)[0], recipe)


def test_axes_are_those_of_the_file_and_the_affine_is_exact(tmp_path):
    case = read(pair(tmp_path))
    assert case.voxels.shape == (3, 4, 5)
    np.testing.assert_array_equal(case.voxels, IMAGE)
    np.testing.assert_array_equal(case.nifti_affine, AFFINE.astype(np.float32))
    np.testing.assert_allclose(
        np.asarray(case.geometry.affine_zyx_to_ras_mm) @ [2, 1, 3, 1], AFFINE @ [3, 1, 2, 1], rtol=1e-6
    )


def test_labels_json_names_the_structures(tmp_path):
    layout, recipe = find_reader(str(pair(tmp_path)))
    assert layout.name == "nifti-pairs"
    assert [(item.name, item.text) for item in recipe.structures] == [
        ("liver", "liver"),
        ("left_kidney", "left kidney"),
    ]
    np.testing.assert_array_equal(read(tmp_path).references[0].mask("left_kidney"), LABELS == 2)


def test_texts_and_modality_in_labels_json_are_used(tmp_path):
    pair(tmp_path, names={**NAMES, "texts": {"liver": "human liver"}, "modality": "CT"})
    _, recipe = find_reader(str(tmp_path))
    assert (recipe.structure("liver").text, recipe.modality, recipe.window) == ("human liver", "CT", "ct:40,400")


def test_structure_that_the_label_map_lacks_is_absent(tmp_path):
    reference = read(pair(tmp_path, labels=LABELS // 2)).references[0]
    assert {entry.structure for entry in reference.entries} == {"liver"}
    assert not reference.mask("left_kidney").any()


def test_scale_factors_are_applied(tmp_path):
    pair(tmp_path)
    image = nib.Nifti1Image(IMAGE.T, AFFINE)
    image.header.set_slope_inter(2.0, -1024.0)
    nib.save(image, tmp_path / "images" / "a.nii.gz")
    stored = nib.load(tmp_path / "images" / "a.nii.gz")
    case = read(tmp_path)
    np.testing.assert_allclose(case.voxels, np.asanyarray(stored.dataobj).T)
    assert case.voxels.dtype == np.float32


def test_header_facts_are_kept(tmp_path):
    attributes = read(pair(tmp_path)).attributes
    assert (attributes["nifti_sform_code"], attributes["nifti_qform_code"]) == (2, 0)
    assert attributes["nifti_dtype"] == "int16"


def test_micrometres_become_millimetres_in_the_geometry_alone(tmp_path):
    image = nib.Nifti1Image(IMAGE.T, np.diag([500.0, 500, 2000, 1]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    assert volume.geometry.spacing_zyx == pytest.approx((2.0, 0.5, 0.5))
    assert volume.affine[0, 0] == 500.0


def test_fourth_dimension_of_one_is_accepted(tmp_path):
    pair(tmp_path)
    nib.save(nib.Nifti1Image(IMAGE.T[..., None], AFFINE), tmp_path / "images" / "a.nii.gz")
    np.testing.assert_array_equal(read(tmp_path).voxels, IMAGE)


def test_two_dimensions_are_one_slice(tmp_path):
    nib.save(nib.Nifti1Image(IMAGE[0].T, AFFINE), tmp_path / "a.nii")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").voxels, IMAGE[:1])


def test_four_dimensions_need_a_chosen_channel(tmp_path):
    pair(tmp_path)
    nib.save(nib.Nifti1Image(np.stack([IMAGE.T, IMAGE.T + 1], axis=3), AFFINE), tmp_path / "images" / "a.nii.gz")
    with pytest.raises(CaseDataError, match=r"a.nii.gz: shape \(5, 4, 3, 2\) where three dimensions .* channel in the"):
        read(tmp_path)
    np.testing.assert_array_equal(read(tmp_path, channel=1).voxels, IMAGE + 1)
    with pytest.raises(CaseDataError, match=r"channel 2 was chosen, but shape \(5, 4, 3, 2\) has only 2"):
        read(tmp_path, channel=2)


def test_truncated_file_is_refused(tmp_path):
    noise = np.random.default_rng(0).normal(size=(3, 4, 500)).astype(np.float32)
    pair(tmp_path, image=noise, labels=np.zeros((3, 4, 500), np.uint8))
    path = tmp_path / "images" / "a.nii.gz"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(CaseDataError, match=r"images/a.nii.gz cannot be read as NIfTI .* truncated, copy or export"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no nifti at all", b"\x1f\x8b" + b"\0" * 400])
def test_foreign_file_is_refused(tmp_path, content):
    pair(tmp_path)
    (tmp_path / "images" / "a.nii.gz").write_bytes(content)
    with pytest.raises(CaseDataError, match=r"images/a.nii.gz cannot be read as NIfTI"):
        read(tmp_path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(CaseDataError, match=r"gone.nii cannot be read as NIfTI \(No such file"):
        read_nifti(tmp_path / "gone.nii")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_not_finite_are_counted(tmp_path, bad):
    voxels = IMAGE.astype(np.float32)
    voxels[0, 0, :2] = bad
    pair(tmp_path, image=voxels)
    with pytest.raises(CaseDataError, match=r"images/a.nii.gz: image holds 2 NaN or infinite voxels; re-export it"):
        read(tmp_path)


def test_singular_affine_is_refused(tmp_path):
    pair(tmp_path)
    image = nib.Nifti1Image(IMAGE.T, AFFINE)
    image.header["srow_y"] = image.header["srow_x"]
    image.affine[:] = image.header.get_sform()
    nib.nifti1.Nifti1Image.to_filename(image, tmp_path / "images" / "a.nii.gz")
    with pytest.raises(CaseDataError, match=r"images/a.nii.gz: affine is singular, got .*; re-export"):
        read(tmp_path)


def test_label_map_of_another_shape_is_refused(tmp_path):
    pair(tmp_path, labels=LABELS[:2])
    with pytest.raises(CaseDataError, match=r"labels/a.nii.gz has the shape \(z, y, x\) \(2, 4, 5\), its image \(3, 4"):
        read(tmp_path)


def test_label_map_at_another_place_is_refused(tmp_path):
    moved = AFFINE.copy()
    moved[2, 3] += 1.0
    pair(tmp_path, label_affine=moved)
    with pytest.raises(CaseDataError, match=r"labels/a.nii.gz has the affine .*; resample it onto the image"):
        read(tmp_path)


def test_label_value_without_name_is_refused(tmp_path):
    pair(tmp_path, labels=LABELS + (IMAGE == 0).astype(np.uint8) * 7)
    with pytest.raises(
        CaseDataError, match=r"a.nii.gz: label value 7 has no name \(1 such values; named values: 1 liver"
    ):
        read(tmp_path)


def test_without_any_names_the_remedy_is_labels_json(tmp_path):
    pair(tmp_path, names=None)
    with pytest.raises(
        CaseDataError, match=r"label value 1 has no name .*named values: none\); name it in labels.json"
    ):
        read(tmp_path)


def test_whole_float_labels_are_accepted_and_fractions_refused(tmp_path):
    pair(tmp_path, labels=LABELS.astype(np.float32))
    assert read(tmp_path).references[0].voxels.dtype == np.uint8
    pair(tmp_path, labels=LABELS.astype(np.float32) / 2)
    with pytest.raises(CaseDataError, match=r"a.nii.gz: label value 0.5 is not an integer .* nearest neighbour"):
        read(tmp_path)


def test_negative_labels_are_refused(tmp_path):
    pair(tmp_path, labels=-LABELS.astype(np.int16))
    with pytest.raises(CaseDataError, match=r"label values run from -2 to 0; 0 to 65535 are expected"):
        read(tmp_path)


def test_colour_voxels_are_refused(tmp_path):
    rgb = np.zeros((5, 4, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, AFFINE), tmp_path / "a.nii")
    with pytest.raises(CaseDataError, match=r"a.nii: voxels have the type .*; a scalar number per voxel is expected"):
        read_nifti(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "labels.json cannot be read as JSON"),
        ("[1]", "labels.json holds a JSON list"),
        ('{"labels": [1]}', "labels must map values to names or names to values"),
        ('{"labels": {"liver": -1}}', "label 'liver': -1 is neither"),
        ('{"labels": {"a b": 1, "a_b": 2}}', "several labels map to the structure 'a_b'"),
        ('{"labels": {"a": 1}, "texts": [2]}', "texts must map structures to their text"),
    ],
)
def test_broken_label_table_stops_the_ingest(tmp_path, content, message):
    pair(tmp_path)
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        find_reader(str(tmp_path))


def test_structures_of_a_recipe_count_from_one(tmp_path):
    pair(tmp_path, names=None)
    layout, found = find_reader(str(tmp_path))
    structures = (Structure("near", "near"), Structure("far", "far"))
    recipe = Recipe("mine", "nifti-pairs", structures, "CT", "minmax", found.parameters)
    case = layout.read_case(tmp_path, layout.list_cases(tmp_path, recipe)[0], recipe)
    np.testing.assert_array_equal(case.references[0].mask("far"), LABELS == 2)


@pytest.mark.parametrize("kind", [PhantomKind.CT, PhantomKind.MR])
@pytest.mark.parametrize("layout", ["msd", "nifti-pairs"])
def test_written_phantoms_are_read_back(tmp_path, kind, layout):
    phantoms = PhantomSource(kind, cases=5, shape_zyx=(6, 32, 40))
    write_phantom_dataset(tmp_path, phantoms, layout)
    engine, recipe = find_reader(str(tmp_path))
    assert engine.name == layout
    found = sorted(engine.list_cases(tmp_path, recipe), key=lambda case: case.image[0].rpartition("/")[2])
    assert [case.split for case in found] == ["train"] * 4 + ["test"]
    for index, source in enumerate(found):
        drawn, case = phantoms.draw(index), engine.read_case(tmp_path, source, recipe)
        np.testing.assert_array_equal(case.voxels, drawn.voxels)
        np.testing.assert_allclose(case.nifti_affine, drawn.nifti_affine, atol=1e-5)
        for structure in recipe.structures:
            np.testing.assert_array_equal(
                case.references[0].mask(structure.name), drawn.references[0].mask(structure.name)
            )
