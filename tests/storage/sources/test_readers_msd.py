import json

import nibabel as nib
import numpy as np
import pytest

from medsam3_core.cases.recipes import Recipe
from medsam3_core.errors import CaseDataError, UsageError
from storage.sources.registry import find_reader
from tests import real_sources
from tests.phantom_files import write_nifti

AFFINE = np.diag([0.8, 0.8, 5.0, 1.0])
IMAGE = np.arange(2 * 4 * 5, dtype=np.int16).reshape(2, 4, 5)
LABELS = (IMAGE // 10).astype(np.uint8)


def write_dataset(folder, index, images=("a", "b"), labels=("a", "b"), suffix=""):
    folder.mkdir(exist_ok=True)
    for key in images:
        write_nifti(folder / "imagesTr" / f"{key}{suffix}.nii.gz", IMAGE, AFFINE)
    for key in labels:
        write_nifti(folder / "labelsTr" / f"{key}.nii.gz", LABELS, AFFINE)
    (folder / "dataset.json").write_text(json.dumps(index))
    return folder


def decathlon(keys=("a", "b"), **changes):
    training = [{"image": f"./imagesTr/{key}.nii.gz", "label": f"./labelsTr/{key}.nii.gz"} for key in keys]
    labels = {"0": "background", "1": "Liver", "2": "Hepatic vessel", "3": "Cyst"}
    return {"name": "Organs", "modality": {"0": "CT"}, "labels": labels, "training": training, **changes}


def nnunet(**changes):
    labels = {"background": 0, "whole tumour": [1, 2], "core": 2, "ignore": 3}
    return {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz", **changes}


def listed(folder):
    layout, recipe = find_reader(str(folder))
    assert layout.name == "msd"
    return layout.list_cases(folder, recipe)


def read(folder, number=0, **parameters):
    layout, recipe = find_reader(str(folder))
    recipe = Recipe(
        recipe.name, "msd", recipe.structures, recipe.modality, recipe.window, {**recipe.parameters, **parameters}
    )
    return layout.read_case(folder, layout.list_cases(folder, recipe)[number], recipe)


def test_recipe_is_derived_from_the_index(tmp_path):
    _, recipe = find_reader(str(write_dataset(tmp_path, decathlon(licence="CC0", reference="Someone"))))
    assert [(item.name, item.text) for item in recipe.structures][:2] == [
        ("Liver", "liver"),
        ("Hepatic_vessel", "hepatic vessel"),
    ]
    assert (recipe.name, recipe.modality, recipe.window) == ("Organs", "CT", "ct:40,400")
    assert (recipe.licence, recipe.citation) == ("CC0", "Someone")


def test_decathlon_cases_are_read_with_their_labels(tmp_path):
    write_dataset(tmp_path, decathlon())
    assert [(case.case_id, case.split, case.reject_reason) for case in listed(tmp_path)] == [
        ("a", None, None),
        ("b", None, None),
    ]
    case = read(tmp_path)
    np.testing.assert_array_equal(case.voxels, IMAGE)
    np.testing.assert_array_equal(case.references[0].mask("Hepatic_vessel"), LABELS == 2)


def test_nnunet_regions_and_ignored_values_are_understood(tmp_path):
    write_dataset(tmp_path, nnunet(), suffix="_0000")
    assert [case.case_id for case in listed(tmp_path)] == ["a", "b"]
    reference = read(tmp_path).references[0]
    np.testing.assert_array_equal(reference.mask("whole_tumour"), (LABELS == 1) | (LABELS == 2))
    np.testing.assert_array_equal(reference.mask("core"), LABELS == 2)
    assert reference.voxels.max() == 2


def test_index_without_the_channel_suffix_of_its_files_is_understood(tmp_path):
    write_dataset(tmp_path, decathlon(), suffix="_0000")
    assert [case.image for case in listed(tmp_path)] == [("imagesTr/a_0000.nii.gz",), ("imagesTr/b_0000.nii.gz",)]


def test_several_channel_files_need_a_choice(tmp_path):
    write_dataset(tmp_path, nnunet(), suffix="_0000")
    for key in "ab":
        write_nifti(tmp_path / "imagesTr" / f"{key}_0001.nii.gz", IMAGE + 1, AFFINE)
    with pytest.raises(CaseDataError, match=r"a_0000.nii.gz: the case has 2 channels .* set channel to 0..1"):
        read(tmp_path)
    np.testing.assert_array_equal(read(tmp_path, channel=1).voxels, IMAGE + 1)


def test_four_dimensional_image_needs_a_choice(tmp_path):
    write_dataset(tmp_path, decathlon())
    nib.save(nib.Nifti1Image(np.stack([IMAGE.T, IMAGE.T + 1], axis=3), AFFINE), tmp_path / "imagesTr" / "a.nii.gz")
    with pytest.raises(CaseDataError, match=r"a.nii.gz: shape \(5, 4, 2, 2\) where three dimensions are expected"):
        read(tmp_path)
    np.testing.assert_array_equal(read(tmp_path, channel=1).voxels, IMAGE + 1)


def test_labelled_test_folder_is_the_test_split_and_unlabelled_images_are_no_cases(tmp_path):
    write_dataset(tmp_path, nnunet())
    for key in "cd":
        write_nifti(tmp_path / "imagesTs" / f"{key}.nii.gz", IMAGE, AFFINE)
    write_nifti(tmp_path / "labelsTs" / "c.nii.gz", LABELS, AFFINE)
    assert [(case.case_id, case.split) for case in listed(tmp_path)] == [("a", "train"), ("b", "train"), ("c", "test")]


@pytest.mark.parametrize("missing", ["images", "labels"])
def test_missing_file_rejects_its_case_alone(tmp_path, missing):
    write_dataset(tmp_path, decathlon(), **{missing: ("a",)})
    first, second = listed(tmp_path)
    assert first.reject_reason is None
    assert f"{missing}Tr/b.nii.gz is listed in dataset.json but missing; restore it" in second.reject_reason


def test_missing_label_in_a_folder_dataset_rejects_its_case(tmp_path):
    write_dataset(tmp_path, nnunet(), labels=("a",))
    assert "labelsTr has no b.nii.gz; add the label map" in listed(tmp_path)[1].reject_reason


def test_case_named_three_times_is_kept_once(tmp_path):
    write_dataset(tmp_path, decathlon(keys=("a", "a", "a")))
    found = listed(tmp_path)
    assert [case.reject_reason is None for case in found] == [True, False, False]
    assert len({case.case_id for case in found}) == 3


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (decathlon(labels={"1": 2.5}), "label '1': 2.5 is neither"),
        (decathlon(training=[{"image": "x"}]), "entry {'image': 'x'} of training needs an image and a label"),
        (decathlon(training={"a": 1}), "training must be a list, got dict"),
        (nnunet(file_ending=".vtk"), r"file_ending '.vtk'; supported are .*.nii.gz, .nii, .*.png, .bmp, .tif"),
    ],
)
def test_broken_index_is_named(tmp_path, index, message):
    write_dataset(tmp_path, index)
    with pytest.raises(UsageError, match=rf"dataset.json.*{message}"):
        listed(tmp_path)


def test_index_that_is_no_json_is_named(tmp_path):
    write_dataset(tmp_path, {})
    (tmp_path / "dataset.json").write_text("{,")
    with pytest.raises(UsageError, match=r"dataset.json cannot be read as JSON"):
        find_reader(str(tmp_path))


def test_index_without_files_is_no_cohort(tmp_path):
    write_dataset(tmp_path, nnunet(), images=(), labels=())
    with pytest.raises(UsageError, match=r"holds no case; expected volumes or images in imagesTr and labelsTr"):
        listed(tmp_path)


def test_recipe_of_another_dataset_is_refused(tmp_path):
    write_dataset(tmp_path, decathlon())
    layout, recipe = find_reader(str(tmp_path), "msd_hippocampus")
    with pytest.raises(
        UsageError, match="has the name 'Organs', recipe 'msd_hippocampus' is for 'Hippocampus'; choose"
    ):
        layout.list_cases(tmp_path, recipe)


@pytest.mark.parametrize(("source", "volumes", "last"), real_sources("Task04_Hippocampus", (4, 4), (160, 30)))
def test_hippocampus_has_every_volume_and_the_last_30_for_test(source, volumes, last):
    layout, recipe = find_reader(str(source))
    found = layout.list_cases(source, recipe)
    test = [case.case_id for case in found if case.split == "test"]
    assert (recipe.name, len(found), len(test)) == ("msd_hippocampus", volumes, last)
    assert test == [case.case_id for case in found][-last:]
    assert {case.reject_reason for case in found} == {None}
    for source_case in found[:10]:
        case = layout.read_case(source, source_case, recipe)
        stored = nib.load(source / source_case.references["reference"][0])
        for value, name in ((1, "anterior"), (2, "posterior")):
            expected = (np.asanyarray(stored.dataobj) == value).transpose(2, 1, 0)
            np.testing.assert_array_equal(case.references[0].mask(name), expected)
        np.testing.assert_array_equal(case.geometry.affine_nifti, stored.affine)
