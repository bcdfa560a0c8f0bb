import numpy as np
import pytest
from PIL import Image

from medsam3_core.cases.geometry import LengthUnit
from medsam3_core.cases.recipes import Recipe, SplitRule
from medsam3_core.cases.structures import Structure
from medsam3_core.errors import CaseDataError, UsageError
from medsam3_core.phantoms import PhantomKind
from storage.sources.layouts.phantom import PhantomSource
from storage.sources.listing.parameters import ImagePairParameters
from storage.sources.registry import find_reader
from tests import real_sources
from tests.phantom_files import write_phantom_dataset, write_png

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)
SQUARE = np.zeros((6, 8), dtype=np.uint8)
SQUARE[1:4, 2:5] = 255
RECIPE = Recipe(
    "pairs",
    "image-pairs",
    (Structure("lesion", "lesion"),),
    "fundus",
    "identity",
    {
        "image": r"images/(?P<key>.+)\.(?:png|jpg|tif)",
        "references": [{"rater": "reference", "pattern": r"masks/(?P<key>.+)\.(?:png|jpg|bmp)"}],
    },
)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def pair(folder, key="a", image=GREY, mask=SQUARE):
    save(folder / "images" / f"{key}.png", image)
    save(folder / "masks" / f"{key}.png", mask)


def cases(folder, recipe=None):
    layout, found = find_reader(str(folder))
    return layout.list_cases(folder, recipe or found)


def read(folder, recipe=RECIPE, number=0):
    layout, found = find_reader(str(folder))
    chosen = recipe or found
    return layout.read_case(folder, layout.list_cases(folder, chosen)[number], chosen)


def with_parameters(**parameters):
    return Recipe("pairs", "image-pairs", RECIPE.structures, "fundus", "identity", {**RECIPE.parameters, **parameters})


def test_an_image_is_a_volume_of_one_slice_in_pixels(tmp_path):
    pair(tmp_path)
    case = read(tmp_path)
    assert case.voxels.shape == (1, 6, 8)
    assert case.geometry.unit is LengthUnit.PIXEL
    assert case.nifti_affine is None
    np.testing.assert_array_equal(case.voxels[0], GREY)
    np.testing.assert_array_equal(case.references[0].mask("lesion")[0], SQUARE > 0)


def test_colour_keeps_its_channels_and_their_order(tmp_path):
    colour = np.stack([GREY, GREY + 1, GREY + 2], axis=2)
    pair(tmp_path, image=colour)
    case = read(tmp_path)
    assert case.voxels.shape == (3, 1, 6, 8)
    np.testing.assert_array_equal(case.voxels[2, 0], GREY + 2)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/a.png", "masks/a.png"),
        ("images/train/a.png", "masks/train/a_mask.png"),
        ("train/Image/a.PNG", "train/Label/a.png"),
        ("a.jpg", "a_mask.png"),
        ("a.jpg", "a-seg.png"),
        ("original/a.tif", "Ground Truth/a.tif"),
        ("a.png", "masks/a.png"),
    ],
)
def test_pairs_are_found_without_a_recipe(tmp_path, image, mask):
    save(tmp_path / image, GREY)
    save(tmp_path / mask, SQUARE)
    save(tmp_path / image.replace("a.", "b."), GREY)
    save(tmp_path / mask.replace("/a", "/b").replace("a_m", "b_m").replace("a-s", "b-s"), SQUARE)
    found = cases(tmp_path)
    assert (found[0].image, found[0].references["reference"]) == ((image,), (mask,))
    assert [case.reject_reason for case in found] == [None, None]
    assert {case.split for case in found} == {"train" if "train" in image else None}
    assert len(read(tmp_path, recipe=None).references) == 1


def test_same_name_in_two_splits_is_two_cases(tmp_path):
    for split in ("train", "test"):
        pair(tmp_path, f"{split}/0000")
    save(tmp_path / "images/train/0000.png", GREY)
    assert sorted((case.split, case.reject_reason) for case in cases(tmp_path)) == [("test", None), ("train", None)]


def test_images_alone_are_cases_without_reference(tmp_path):
    save(tmp_path / "scan 1.png", GREY)
    (case,) = cases(tmp_path)
    assert case.references == {}
    assert case.case_id.startswith("scan-1-")
    assert read(tmp_path, recipe=None).references == ()


def test_missing_mask_rejects_its_case_alone(tmp_path):
    pair(tmp_path, "a")
    save(tmp_path / "images" / "b.png", GREY)
    first, second = cases(tmp_path)
    assert first.reject_reason is None
    assert second.reject_reason.startswith("images/b.png: no reference of rater 'reference'")


def test_mask_without_image_is_listed_as_rejected(tmp_path):
    pair(tmp_path, "a")
    save(tmp_path / "masks" / "b.png", SQUARE)
    assert [case.reject_reason for case in cases(tmp_path)][1].startswith("masks/b.png: no image has the key 'b'")


def test_two_masks_of_one_rater_reject_the_case(tmp_path):
    pair(tmp_path)
    save(tmp_path / "masks" / "a.bmp", SQUARE)
    assert "has 2 references: masks/a.bmp, masks/a.png; keep one" in cases(tmp_path, RECIPE)[0].reject_reason


def test_doubled_case_id_keeps_the_first_and_names_both(tmp_path):
    pair(tmp_path)
    save(tmp_path / "images" / "a.jpg", GREY)
    first, second = cases(tmp_path, RECIPE)
    assert (first.case_id, first.image, first.reject_reason) == ("a", ("images/a.jpg",), None)
    assert second.case_id.startswith("a-")
    assert len(second.case_id) == len("a-") + 6
    assert second.reject_reason == "images/a.png: case id 'a' is taken by images/a.jpg; rename or remove one of them"


def test_system_files_are_no_cases(tmp_path):
    pair(tmp_path)
    for name in (".DS_Store", "images/.DS_Store", "images/._a.png", "images/Thumbs.db", "__MACOSX/images/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert len(cases(tmp_path)) == 1


def test_mask_of_another_size_is_refused_with_both_sizes(tmp_path):
    pair(tmp_path, mask=SQUARE[:, :5])
    with pytest.raises(CaseDataError, match=r"masks/a.png has 5 x 6 pixels, its image .*images/a.png has 8 x 6; find"):
        read(tmp_path)


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_truncated_file_is_named(tmp_path, folder):
    pair(tmp_path, image=np.random.default_rng(0).integers(0, 255, (60, 80)).astype(np.uint8), mask=np.eye(60, 80) > 0)
    path = tmp_path / folder / "a.png"
    path.write_bytes(path.read_bytes()[:70])
    with pytest.raises(CaseDataError, match=rf"{folder}/a.png cannot be read as an image .* copy or export it again"):
        read(tmp_path)


def test_text_with_an_image_name_is_refused(tmp_path):
    pair(tmp_path)
    (tmp_path / "images" / "a.png").write_text("nothing")
    with pytest.raises(CaseDataError, match=r"images/a.png cannot be read as an image"):
        read(tmp_path)


@pytest.mark.parametrize("high", [1, 255])
def test_binary_mask_may_use_one_or_255(tmp_path, high):
    pair(tmp_path, mask=(SQUARE > 0).astype(np.uint8) * np.uint8(high))
    assert read(tmp_path).references[0].mask("lesion").sum() == 9


def test_one_bit_mask_is_binary(tmp_path):
    pair(tmp_path, mask=SQUARE > 0)
    assert read(tmp_path).references[0].mask("lesion").sum() == 9


def test_empty_mask_holds_no_structure(tmp_path):
    pair(tmp_path, mask=SQUARE * 0)
    assert read(tmp_path).references[0].entries == ()


def test_grey_values_in_a_binary_mask_are_refused_unless_a_threshold_is_given(tmp_path):
    soft = SQUARE.copy()
    soft[0, 0] = 7
    pair(tmp_path, mask=soft)
    with pytest.raises(CaseDataError, match=r"a.png is not binary: 1 pixels with 1 values .* the first 7; give label_"):
        read(tmp_path)
    assert read(tmp_path, with_parameters(mask_threshold=127)).references[0].mask("lesion").sum() == 9


def test_label_values_name_the_structures(tmp_path):
    labels = np.zeros((6, 8), np.uint8)
    labels[0], labels[1], labels[2] = 1, 2, 9
    pair(tmp_path, mask=labels)
    recipe = with_parameters(label_values={"lesion": [1, 2]}, ignored_values=[9])
    reference = read(tmp_path, recipe).references[0]
    assert reference.mask("lesion").sum() == 16
    assert reference.voxels.max() == 2


def test_label_value_without_name_is_refused(tmp_path):
    pair(tmp_path, mask=SQUARE)
    with pytest.raises(
        CaseDataError, match=r"a.png: label value 255 has no name .*named values: 1 lesion\); name it in"
    ):
        read(tmp_path, with_parameters(label_values={"lesion": [1]}))


def test_palette_is_colour_in_images_and_an_index_in_label_masks(tmp_path):
    indexed = Image.fromarray((SQUARE > 0).astype(np.uint8), mode="P")
    indexed.putpalette([0, 0, 0, 200, 10, 20])
    pair(tmp_path, image=indexed, mask=indexed)
    case = read(tmp_path, with_parameters(label_values={"lesion": [1]}))
    assert case.voxels[:, 0, 1, 2].tolist() == [200, 10, 20]
    assert case.references[0].mask("lesion").sum() == 9


def test_coloured_mask_is_refused_and_grey_rgb_is_read(tmp_path):
    pair(tmp_path, mask=np.stack([SQUARE] * 3, axis=2))
    assert read(tmp_path).references[0].mask("lesion").sum() == 9
    pair(tmp_path, mask=np.stack([SQUARE, SQUARE * 0, SQUARE * 0], axis=2))
    with pytest.raises(CaseDataError, match=r"a.png is a coloured mask \(9 pixels are not grey\)"):
        read(tmp_path)


def test_alpha_is_dropped_and_noted(tmp_path):
    pair(tmp_path, image=np.stack([GREY, GREY, GREY, GREY * 0 + 9], axis=2))
    case = read(tmp_path)
    assert case.voxels.shape == (3, 1, 6, 8)
    assert case.attributes["alpha"] == "dropped"


def test_exif_orientation_is_noted_and_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pair(tmp_path)
    save(tmp_path / "images" / "a.jpg", GREY, exif=exif)
    (tmp_path / "images" / "a.png").unlink()
    case = read(tmp_path)
    assert case.voxels.shape == (1, 6, 8)
    assert case.attributes["exif_orientation_not_applied"] == 6


def test_sixteen_bits_keep_their_values_and_need_a_window(tmp_path):
    deep = GREY.astype(np.uint16) * 1000
    pair(tmp_path, image=deep)
    layout, generic = find_reader(str(tmp_path))
    assert generic.window == "minmax"
    np.testing.assert_array_equal(layout.read_case(tmp_path, cases(tmp_path)[0], generic).voxels[0], deep)
    with pytest.raises(CaseDataError, match=r"a.png holds values up to 47000, but recipe 'pairs' has the window ident"):
        read(tmp_path)


def test_several_frames_are_refused(tmp_path):
    pair(tmp_path)
    save(tmp_path / "images" / "a.tif", Image.fromarray(GREY), save_all=True, append_images=[Image.fromarray(GREY)])
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(CaseDataError, match=r"a.tif holds 2 frames; one is expected, split the file"):
        read(tmp_path)


def test_raters_come_in_the_order_of_the_recipe(tmp_path):
    pair(tmp_path)
    save(tmp_path / "second" / "a.png", SQUARE)
    references = [{"rater": "z-first", "pattern": r"masks/(?P<key>.+)\.png"}]
    references += [{"rater": "a-second", "pattern": r"second/(?P<key>.+)\.png"}]
    case = read(tmp_path, with_parameters(references=references))
    assert [item.rater for item in case.references] == ["z-first", "a-second"]


def test_patients_decide_the_split_and_unknown_patients_are_refused(tmp_path):
    for key in ("p1_a", "p1_b", "p2_a", "p3_a", "odd"):
        pair(tmp_path, key)
    recipe = Recipe(**{**vars_of(RECIPE), "patient_pattern": "^(p.)_", "split": SplitRule(test_pattern="p[12]")})
    found = {case.case_id: case for case in cases(tmp_path, recipe)}
    assert {key: found[key].split for key in ("p1_a", "p1_b", "p2_a", "p3_a")} == {
        "p1_a": "test",
        "p1_b": "test",
        "p2_a": "test",
        "p3_a": "train",
    }
    assert found["p1_b"].patient_id == "p1"
    assert "no patient found in key 'odd' by the pattern" in found["odd"].reject_reason


def vars_of(recipe):
    return {name: getattr(recipe, name) for name in recipe.__dataclass_fields__}


def test_recipe_that_matches_nothing_is_refused(tmp_path):
    pair(tmp_path)
    with pytest.raises(UsageError, match=r"holds no case; expected images that match 'x/"):
        cases(tmp_path, with_parameters(image="x/(?P<key>.+)"))


def test_parameters_of_a_recipe_are_checked_when_used(tmp_path):
    pair(tmp_path)
    with pytest.raises(UsageError, match="recipe 'pairs', parameters of layout 'image-pairs': unknown key 'colour'"):
        cases(tmp_path, with_parameters(colour=1))
    assert ImagePairParameters(image="(?P<key>.*)").references == []


def instance_folder(folder, masks, key="n1"):
    write_png(folder / key / "images" / f"{key}.png", GREY[None])
    (folder / key / "masks").mkdir()
    for name, mask in masks.items():
        save(folder / key / "masks" / f"{name}.png", mask)


def test_every_mask_file_is_an_instance(tmp_path):
    instance_folder(tmp_path, {"b": SQUARE, "a": np.roll(SQUARE, 3, axis=1)})
    case = read(tmp_path, recipe=None)
    instances = case.references[0].instances("object")
    assert instances[0, 1, 5:8].tolist() == [1, 1, 1]
    assert instances[0, 1, 2:5].tolist() == [2, 2, 2]


def test_overlap_goes_to_the_first_mask_and_is_counted(tmp_path):
    instance_folder(tmp_path, {"a": SQUARE, "b": np.roll(SQUARE, 1, axis=1)})
    case = read(tmp_path, recipe=None)
    assert case.attributes["overlapping_pixels"] == 6
    assert np.bincount(case.references[0].voxels.ravel())[1:].tolist() == [9, 3]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (SQUARE * 0, "b.png marks no pixel; correct it"),
        (SQUARE, "b.png is covered by earlier masks"),
        (SQUARE // 2, "b.png is not binary"),
        (SQUARE[:3], r"b.png has 8 x 3 pixels, its image .* 8 x 6"),
    ],
)
def test_unusable_instance_rejects_the_case(tmp_path, second, message):
    instance_folder(tmp_path, {"a": SQUARE, "b": second})
    with pytest.raises(CaseDataError, match=message):
        read(tmp_path, recipe=None)


def test_no_instance_is_a_case_and_no_mask_folder_is_none(tmp_path):
    instance_folder(tmp_path, {"a": SQUARE}, "n1")
    instance_folder(tmp_path, {}, "n2")
    write_png(tmp_path / "n3" / "images" / "n3.png", GREY[None])
    found = cases(tmp_path)
    assert [bool(case.reject_reason) for case in found] == [False, False, True]
    assert "the folder n3/masks is missing" in found[2].reject_reason
    assert read(tmp_path, recipe=None, number=1).references[0].entries == ()


@pytest.mark.parametrize(
    ("kind", "layout"), [(PhantomKind.FUNDUS, "image-pairs"), (PhantomKind.NUCLEI, "instance-masks")]
)
def test_written_phantoms_are_read_back_bit_for_bit(tmp_path, kind, layout):
    phantoms = PhantomSource(kind, cases=5)
    write_phantom_dataset(tmp_path, phantoms, layout)
    engine, recipe = find_reader(str(tmp_path))
    assert engine.name == layout
    by_number = sorted(engine.list_cases(tmp_path, recipe), key=lambda case: case.image[0].rpartition("/")[2])
    for index, case in enumerate(by_number):
        drawn, found = phantoms.draw(index), engine.read_case(tmp_path, case, recipe)
        np.testing.assert_array_equal(found.voxels, drawn.voxels)
        for structure in recipe.structures:
            expected = drawn.references[0].instances(structure.name)
            np.testing.assert_array_equal(found.references[0].instances(structure.name), expected)


CHASE_TEST = [f"Image_{number}{eye}" for number in (11, 12, 13, 14) for eye in "LR"]


@pytest.mark.parametrize(
    ("source", "eyes", "children", "test"),
    real_sources("CHASE_DB1", (3, 2, ["Image_11L"]), (28, 14, CHASE_TEST)),
)
def test_chase_db1_has_eyes_of_children_and_the_last_four_children_for_test(source, eyes, children, test):
    layout, recipe = find_reader(str(source))
    found = layout.list_cases(source, recipe)
    assert (recipe.name, len(found), len({case.patient_id for case in found})) == ("chase_db1", eyes, children)
    assert sorted(case.case_id for case in found if case.split == "test") == test
    case = layout.read_case(source, found[0], recipe)
    assert case.voxels.shape == (3, 1, 960, 999)
    assert case.references[0].rater == "1stHO"
    with Image.open(source / "Image_01L_1stHO.png") as mask:
        np.testing.assert_array_equal(case.references[0].mask("vessel")[0], np.asarray(mask))


@pytest.mark.parametrize(("source", "images", "test"), real_sources("DSB18", (3, 3), (60, 12)))
def test_dsb18_has_every_image_and_every_nucleus(source, images, test):
    layout, recipe = find_reader(str(source))
    found = layout.list_cases(source, recipe)
    assert (recipe.name, len(found), sum(case.split == "test" for case in found)) == ("dsb18", images, test)
    assert [case.reject_reason for case in found] == [None] * images
    for case in found[:5]:
        instances = layout.read_case(source, case, recipe).references[0].instances("nucleus")
        assert instances.max() == len(list((source / case.case_id / "masks").iterdir()))
