"""Find the built-in recipes that explain the files of a source."""

import re
from collections.abc import Iterator

from medsam3_core.cases.recipes import Recipe
from storage.sources.listing.files import without_companions
from storage.sources.listing.pairing import pair_files
from storage.sources.listing.parameters import PARAMETERS, PairParameters
from storage.sources.listing.recipes import builtin_recipes

_SAMPLE = 500


def explaining_recipes(layout: str, files: list[str], folder: str) -> Iterator[Recipe]:
    """Built-in recipes of a layout with file patterns that explain a source, in order of name.

    A recipe explains a source if more than half of the files belong to its cases, at least one case is complete, and
    its signature, if it has one, occurs in a path.

    Args:
        layout: Name of the layout.
        files: Paths relative to the source.
        folder: Name of the source folder; signatures are searched in paths that start with it.
    """
    for recipe in builtin_recipes().values():
        if recipe.layout == layout and files and _explains(recipe, files, folder):
            yield recipe


def _explains(recipe: Recipe, files: list[str], folder: str) -> bool:
    parameters = PARAMETERS[recipe.layout].model_validate(recipe.parameters)
    assert isinstance(parameters, PairParameters)
    pattern = re.compile(parameters.image, re.IGNORECASE)
    if not any(pattern.fullmatch(name) for name in files[:: max(1, len(files) // _SAMPLE)]):
        return False
    if recipe.signature is not None:
        signature = re.compile(recipe.signature, re.IGNORECASE)
        if not any(signature.search(f"{folder}/{name}") for name in files):
            return False
    own = without_companions(files, recipe.companions)
    found = pair_files(own, parameters)
    explained = sum(len(item.image) + sum(map(len, item.references.values())) for item in found)
    is_whole = any(item.image and (item.references or not parameters.references) for item in found)
    return 2 * explained > len(own) and is_whole
