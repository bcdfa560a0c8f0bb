"""Recipes as files: one YAML per source dataset, checked key by key before anything is read."""

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from medsam3_core.cases.recipes import Recipe, SplitRule, TrainedWeights
from medsam3_core.cases.structures import Structure
from medsam3_core.errors import UsageError
from medsam3_core.phantoms import PhantomKind, phantom_recipe
from medsam3_core.public_weights import PUBLIC_WEIGHTS
from storage.sources.listing.parameters import PARAMETERS, LabelParameters, Pattern, explain, names_its_structures

_BUILTIN_FOLDER = Path(__file__).parents[1] / "recipes"
"""One folder per kind of image; a recipe has the name of its file."""

Text = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _StructureSection(_Section):
    name: Text
    text: Text
    synonyms: list[Text] = []
    instances: bool = False
    tubular: bool = False
    nsd_tolerance: float = Field(default=2.0, gt=0)
    window: str = ""


class _SplitSection(_Section):
    test_last: int = Field(default=0, ge=0)
    test_pattern: Pattern | None = None


class _TrainedSection(_Section):
    weights: Text
    splits: list[Text] = []
    evidence: Text


class _RecipeFile(_Section):
    """The keys of a recipe file; their meaning is that of `Recipe`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    layout: str
    modality: Text
    window: Text
    structures: list[_StructureSection]
    parameters: dict[str, Any] = {}
    split: _SplitSection = _SplitSection()
    patient_pattern: Pattern | None = None
    licence: Text = "unknown"
    citation: str = ""
    homepage: str = ""
    traps: list[Text] = []
    uncertain: list[Text] = []
    trained_weights: list[_TrainedSection] = []
    signature: Pattern | None = None
    companions: list[Annotated[Pattern, Field(min_length=1)]] = []
    published_cases: dict[str, int] = {}
    negatives: bool = False

    @field_validator("layout")
    @classmethod
    def _exists(cls, layout: str) -> str:
        if layout not in PARAMETERS:
            msg = f"unknown layout; choose one of {', '.join(sorted(PARAMETERS))}"
            raise ValueError(msg)
        return layout

    @field_validator("trained_weights")
    @classmethod
    def _are_public(cls, items: list[_TrainedSection]) -> list[_TrainedSection]:
        for item in items:
            if item.weights not in PUBLIC_WEIGHTS:
                msg = f"unknown public weights {item.weights!r}; choose one of {', '.join(PUBLIC_WEIGHTS)}"
                raise ValueError(msg)
        return items

    @field_validator("patient_pattern")
    @classmethod
    def _has_group(cls, pattern: str | None) -> str | None:
        if pattern is not None and re.compile(pattern).groups < 1:
            msg = "needs a group ( ): the part of the key that names the patient"
            raise ValueError(msg)
        return pattern


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe file.

    Raises:
        UsageError: If the file is missing, is not YAML, has unknown, missing or wrong keys, or contradicts itself;
            names the file, the key and the remedy.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"recipe {path} cannot be read: {' '.join(str(error).split())}; give a YAML file"
        raise UsageError(msg) from None
    if not isinstance(content, dict):
        msg = f"recipe {path} holds {type(content).__name__}; keys such as name, layout and structures are expected"
        raise UsageError(msg)
    try:
        return _to_recipe(_RecipeFile.model_validate(content))
    except (ValidationError, UsageError) as error:
        msg = f"recipe {path}: {explain(error) if isinstance(error, ValidationError) else error}"
        raise UsageError(msg) from None


def builtin_files() -> dict[str, Path]:
    """Recipe files that come with medsam3, by name, in sorted order."""
    return {path.stem: path for path in sorted(_BUILTIN_FOLDER.glob("*/*.yaml"), key=lambda path: path.stem)}


@cache
def builtin_recipes() -> dict[str, Recipe]:
    """All recipes that come with medsam3 by name, phantoms included, in sorted order."""
    recipes = [load_recipe(path) for path in builtin_files().values()]
    recipes += [phantom_recipe(kind) for kind in PhantomKind]
    return {recipe.name: recipe for recipe in sorted(recipes, key=lambda recipe: recipe.name)}


def _to_recipe(file: _RecipeFile) -> Recipe:
    structures = tuple(
        Structure(**{**section.model_dump(), "synonyms": tuple(section.synonyms)}) for section in file.structures
    )
    trained = tuple(TrainedWeights(item.weights, tuple(item.splits), item.evidence) for item in file.trained_weights)
    lists: dict[str, Any] = {name: tuple(getattr(file, name)) for name in ("traps", "uncertain", "companions")}
    plain: dict[str, Any] = file.model_dump(exclude={"structures", "split", "trained_weights", *lists})
    split = SplitRule(**file.split.model_dump())
    recipe = Recipe(structures=structures, split=split, trained_weights=trained, **plain, **lists)
    _check_parameters(recipe)
    return recipe


def _check_parameters(recipe: Recipe) -> None:
    try:
        parameters = PARAMETERS[recipe.layout].model_validate(recipe.parameters)
    except ValidationError as error:
        msg = f"parameters of layout {recipe.layout!r}: {explain(error)}"
        raise UsageError(msg) from None
    if not recipe.structures and not names_its_structures(parameters):
        msg = f"structures are missing; layout {recipe.layout!r} does not find them in the data, name at least one"
        raise UsageError(msg)
    if isinstance(parameters, LabelParameters) and recipe.structures:
        for name in parameters.label_values:
            recipe.structure(name)
