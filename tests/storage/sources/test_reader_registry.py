from pathlib import Path

import numpy as np
import pytest
import yaml

from medsam3_core.errors import UsageError
from medsam3_core.phantoms import PhantomKind, phantom_case, phantom_recipe
from storage.sources.layouts.phantom import PhantomSource
from storage.sources.listing.recipes import builtin_files, builtin_recipes
from storage.sources.registry import LAYOUTS, find_reader, layout_of, reader_names
from tests.phantom_files import write_phantom_dataset, write_png


@pytest.mark.parametrize("kind", list(PhantomKind))
@pytest.mark.parametrize("reader", ["auto", "phantom"])
def test_phantoms_are_read_from_a_text(kind, reader):
    source = f"phantom:{kind},cases=4,seed=3"
    layout, recipe = find_reader(source, reader)
    cases = layout.list_cases(Path(source), recipe)
    assert [(case.case_id, case.split) for case in cases][2:] == [(f"{kind}_002", "train"), (f"{kind}_003", "test")]
    drawn = layout.read_case(Path(source), cases[1], recipe)
    assert drawn.digest(recipe) == phantom_case(kind, 3_000_001).digest(phantom_recipe(kind))


def test_size_of_phantoms_can_be_chosen():
    assert PhantomSource.parse("phantom:ct,size=6x40x32").draw(0).voxels.shape == (6, 40, 32)
    assert PhantomSource.parse("phantom:nuclei,size=64x80").draw(0).voxels.shape == (3, 1, 64, 80)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("phantom:pet", "unknown phantom 'pet' in 'phantom:pet'; choose one of ct, mr, fundus, nuclei"),
        ("phantom:ct,case=3", "unknown option 'case' in .*; options are cases, seed and size"),
        ("phantom:ct,cases=0", "cases takes 1 to"),
        ("phantom:ct,cases=x", "cases takes 1 to"),
        ("phantom:ct,size=4x4x4x4", "size ZxYxX"),
        ("phantom:ct,seed=-1", "seed 0 or more"),
    ],
)
def test_wrong_phantom_text_lists_what_exists(source, message):
    with pytest.raises(UsageError, match=message):
        find_reader(source)


def test_phantom_of_another_kind_than_the_reader_is_refused():
    layout, recipe = find_reader("phantom:ct", "phantom-mr")
    with pytest.raises(UsageError, match="source 'phantom:ct' does not match the reader 'phantom-mr'"):
        layout.list_cases(Path("phantom:ct"), recipe)


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("ct", "msd"),
        ("mr", "nifti-pairs"),
        ("fundus", "image-pairs"),
        ("xray", "image-pairs"),
        ("nuclei", "instance-masks"),
        ("endoscopy", "instance-masks"),
    ],
)
def test_auto_recognises_every_layout(tmp_path, kind, layout):
    write_phantom_dataset(tmp_path, PhantomSource.parse(f"phantom:{kind},cases=2"), layout)
    assert find_reader(str(tmp_path))[0].name == layout
    assert find_reader(str(tmp_path), layout)[0] is LAYOUTS[layout]


def test_phantom_cannot_be_written_in_a_foreign_layout(tmp_path):
    with pytest.raises(UsageError, match="phantom nuclei cannot be written as 'msd'; choose instance-masks"):
        write_phantom_dataset(tmp_path, PhantomSource(PhantomKind.NUCLEI), "msd")
    with pytest.raises(UsageError, match="phantom shapes cannot be written as 'msd'; read it as phantom:shapes"):
        write_phantom_dataset(tmp_path, PhantomSource(PhantomKind.SHAPES), "msd")


def test_unknown_reader_lists_readers_and_recipes(tmp_path):
    with pytest.raises(
        UsageError, match=r"unknown reader 'dicomm'; choose one of auto, phantom, msd, .*chase_db1, .*dsb"
    ):
        find_reader(str(tmp_path), "dicomm")


def test_missing_empty_and_file_sources_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"source .*gone does not exist; give a folder"):
        find_reader(str(tmp_path / "gone"))
    (tmp_path / ".DS_Store").touch()
    with pytest.raises(UsageError, match=rf"source {tmp_path} is an empty folder"):
        find_reader(str(tmp_path))
    (tmp_path / "a.txt").touch()
    with pytest.raises(UsageError, match=r"source .*a.txt is a file; give the folder"):
        find_reader(str(tmp_path / "a.txt"))


def test_folder_without_images_is_of_no_known_layout(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"matches no known layout \(tried phantom, .*Readers: auto, phantom, msd"):
        find_reader(str(tmp_path))
    with pytest.raises(UsageError, match=r"matches no known layout \(tried msd\)"):
        find_reader(str(tmp_path), "msd")


def test_references_alone_are_not_taken_for_images(tmp_path):
    write_png(tmp_path / "reference.png", np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(UsageError, match="matches no known layout"):
        find_reader(str(tmp_path))


def test_recipe_file_takes_the_place_of_recognition(tmp_path):
    write_png(tmp_path / "a.png", np.zeros((1, 4, 4), np.uint8))
    content = yaml.safe_load(builtin_files()["chase_db1"].read_text()) | {"name": "mine"}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    layout, recipe = find_reader(str(tmp_path), recipe_file=path)
    assert (layout.name, recipe.name) == ("image-pairs", "mine")
    with pytest.raises(UsageError, match=r"reader 'msd' contradicts .*mine.yaml, whose layout is 'image-pairs'"):
        find_reader(str(tmp_path), "msd", path)


def test_every_recipe_has_an_engine_and_is_a_reader():
    assert all(layout_of(recipe).name == recipe.layout for recipe in builtin_recipes().values())
    assert set(reader_names()) == {"auto", *LAYOUTS, *builtin_recipes()}


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path):
    write_phantom_dataset(tmp_path / "real", PhantomSource.parse("phantom:fundus,cases=2"), "image-pairs")
    (tmp_path / "linked").mkdir()
    for name in ("images", "masks"):
        (tmp_path / "linked" / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real" / "images" / "loop").symlink_to(tmp_path / "real")
    layout, recipe = find_reader(str(tmp_path / "linked"))
    assert len(layout.list_cases(tmp_path / "linked", recipe)) == 2
