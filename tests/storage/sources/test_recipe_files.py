import json
import re

import pytest
import yaml

from medsam3_core.cases.recipes import recipe_from_json
from medsam3_core.errors import UsageError
from storage.sources.listing.recipes import builtin_files, builtin_recipes, load_recipe

CHASE = yaml.safe_load(builtin_files()["chase_db1"].read_text())
MSD = yaml.safe_load(builtin_files()["msd_hippocampus"].read_text())


def written(folder, content):
    path = folder / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_built_in_recipes_are_named_like_their_files():
    assert builtin_files().keys() <= builtin_recipes().keys()
    assert {"chase_db1", "msd_hippocampus", "dsb18", "phantom-ct", "phantom-nuclei"} <= builtin_recipes().keys()
    assert all(name == recipe.name for name, recipe in builtin_recipes().items())


@pytest.mark.parametrize("name", builtin_recipes())
def test_recipe_survives_the_way_through_json(name):
    recipe = builtin_recipes()[name]
    assert recipe_from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_every_built_in_recipe_states_licence_and_citation():
    assert all(recipe.licence != "unknown" and recipe.citation for recipe in builtin_recipes().values())


def test_vessels_are_tubular_and_the_first_observer_is_primary():
    recipe = builtin_recipes()["chase_db1"]
    assert recipe.structure("vessel").tubular
    assert [item["rater"] for item in recipe.parameters["references"]] == ["1stHO", "2ndHO"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licenze": "MIT"}, "unknown key 'licenze'; remove it or correct its spelling"),
        ({"layout": "folders"}, "key 'layout': .*unknown layout; choose one of archive, arrays, bids, coco"),
        ({"window": "soft"}, "unknown intensity policy 'soft'; choose ct:CENTRE,WIDTH"),
        ({"structures": []}, "structures are missing; layout 'image-pairs' does not"),
        ({"structures": [{"name": "vessel"}]}, "key 'structures.0.text' is missing; add it"),
        ({"structures": [{"name": "a b", "text": "x"}]}, "structure name 'a b' may hold letters"),
        ({"structures": [{"name": "v", "text": "v", "tubular": "maybe"}]}, "key 'structures.0.tubular'"),
        ({"structures": [{"name": "v", "text": "v", "window": "soft"}]}, "unknown intensity policy 'soft'"),
        ({"patient_pattern": "Image"}, r"key 'patient_pattern': .*needs a group \( \)"),
        ({"patient_pattern": "("}, "key 'patient_pattern': .*is not a valid regular expression"),
        ({"split": {"test_pattern": "["}}, "key 'split.test_pattern': .*is not a valid regular expression"),
        ({"split": {"test_last": -1}}, "key 'split.test_last'"),
        ({"split": {"test_last": 1, "test_pattern": "x"}}, "split rule takes either test_last"),
        ({"parameters": {}}, "parameters of layout 'image-pairs': key 'image' is missing"),
        ({"parameters": {"image": ".*png"}}, "needs a group"),
        (
            {"parameters": {"image": "(?P<key>.*", "mask": 1}},
            "'image'.*not a valid regular expr.*unknown key 'mask'",
        ),
        ({"parameters": {"image": "(?P<key>.*)", "references": [{"pattern": "(?P<key>a)"}] * 2}}, "a rater twice"),
    ],
)
def test_wrong_key_is_named_with_file_and_remedy(tmp_path, change, message):
    path = written(tmp_path, {**CHASE, **change})
    with pytest.raises(UsageError, match=f"{re.escape(str(path))}.*{message}"):
        load_recipe(path)


def test_label_values_of_an_unknown_structure_are_refused(tmp_path):
    path = written(tmp_path, {**MSD, "parameters": {"label_values": {"liver": [1]}}})
    with pytest.raises(UsageError, match="unknown structure 'liver' in recipe 'msd_hippocampus'; it has: anterior"):
        load_recipe(path)


@pytest.mark.parametrize(("content", "message"), [("a: [", "cannot be read"), ("- a", "holds list"), ("", "holds No")])
def test_file_that_is_no_recipe_is_named(tmp_path, content, message):
    with pytest.raises(UsageError, match=rf"mine.yaml {message}"):
        load_recipe(written(tmp_path, content))


def test_missing_recipe_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none.yaml cannot be read: .*No such file"):
        load_recipe(tmp_path / "none.yaml")
