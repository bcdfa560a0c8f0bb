"""Layout `arrays`: slices and volumes as named arrays in `.npz` and `.h5` files (Synapse, CVPR BiomedSegFM)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import LabelEntry, LabelMap
from medsam3_core.errors import CaseDataError, ShapeMismatchError
from storage.sources.formats.arrays import array_names, find_array, read_array
from storage.sources.formats.label_maps import as_label_map, as_unsigned, structure_values, values_present
from storage.sources.layouts.array_texts import CaseTexts, find_structures, read_case_texts
from storage.sources.listing.cases import FoundCase, to_case_sources
from storage.sources.listing.files import ARRAY_SUFFIXES, naming, visible_files, without_companions
from storage.sources.listing.pairing import pair_files, raters_in_order, require_cases
from storage.sources.listing.parameters import ArrayParameters, SpacingOrder, parameters_of
from storage.sources.listing.recognition import explaining_recipes
from storage.sources.listing.tables import with_splits_and_patients

_RATER = "reference"
_SAMPLED_FILES = 24
_MODALITIES = ("CT", "MR", "PET", "US", "Microscopy", "Xray", "Endoscopy", "Fundus", "Dermoscopy", "OCT")


class Arrays:
    """Engine of the layout `arrays`."""

    name = "arrays"

    def recognise(self, source: Path) -> Recipe | None:
        """The first built-in recipe that explains the files and names the label values of a sample of them."""
        files = visible_files(source, ARRAY_SUFFIXES)
        explaining = [
            recipe
            for recipe in explaining_recipes(self.name, files, source.resolve().name)
            if _has_arrays(recipe, source)
        ]
        for recipe in explaining:
            if len(explaining) == 1 or _names_values(recipe, source):
                return self.complete(source, recipe)
        return self.complete(source, explaining[0]) if explaining else None

    def complete(self, source: Path, recipe: Recipe) -> Recipe:
        """The recipe, with the structures that the texts of the files name if it has none."""
        parameters = parameters_of(recipe, ArrayParameters)
        if recipe.structures or parameters.texts_key is None:
            return recipe
        structures = find_structures(source, _files(source, recipe, parameters), parameters)
        texts = {item.name: [item.text, *item.synonyms] for item in structures}
        return replace(recipe, structures=structures, parameters={**recipe.parameters, "texts": texts})

    def list_cases(self, source: Path, recipe: Recipe) -> list[CaseSource]:
        """One case per file with an image; see `pair_files` for what is rejected."""
        parameters = parameters_of(recipe, ArrayParameters)
        found = require_cases(_found(source, recipe, parameters), source, f"files that match {parameters.image!r}")
        return to_case_sources(with_splits_and_patients(source, found, parameters), recipe)

    def read_case(self, source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
        """Image, spacing if the file gives it, and one label map per rater."""
        parameters = parameters_of(recipe, ArrayParameters)
        path = source / case.image[0]
        raters = raters_in_order(parameters, case.references) if parameters.references else list(case.references)
        labels = {rater: read_array(source / case.references[rater][0], parameters.reference_key) for rater in raters}
        image = _as_zyx(read_array(path, parameters.image_key), next(iter(labels.values()), None))
        with naming(path):
            depth, height, width = image.shape[-3:]
            geometry = _geometry(path, (depth, height, width), parameters)
            texts = read_case_texts(path, parameters.texts_key) if parameters.texts_key else None
            references = []
            for rater, values in labels.items():
                values = values[None] if values.ndim == 2 else values
                _check_shape(values.shape, geometry, source / case.references[rater][0])
                references.append(_label_map(values, geometry, recipe, parameters, texts, rater))
            return CaseVolume(image, geometry, tuple(references), _modality(path, recipe))


def _files(source: Path, recipe: Recipe, parameters: ArrayParameters) -> list[str]:
    return [item.image[0] for item in _found(source, recipe, parameters) if item.image]


def _found(source: Path, recipe: Recipe, parameters: ArrayParameters) -> list[FoundCase]:
    files = without_companions(visible_files(source, ARRAY_SUFFIXES), recipe.companions)
    found = pair_files(files, parameters)
    if parameters.references:
        return found
    return [replace(item, references={_RATER: item.image}) for item in found]


def _has_arrays(recipe: Recipe, source: Path) -> bool:
    """True if the first readable file of a sample has the arrays that the recipe needs."""
    parameters = parameters_of(recipe, ArrayParameters)
    for name in _files(source, recipe, parameters)[:_SAMPLED_FILES]:
        try:
            return {parameters.image_key, parameters.reference_key} <= set(array_names(source / name))
        except CaseDataError:
            continue
    return False


def _names_values(recipe: Recipe, source: Path) -> bool:
    """True if the recipe names every label value in a sample of the files; unreadable files are skipped."""
    parameters = parameters_of(recipe, ArrayParameters)
    known = {value for values in structure_values(recipe, parameters).values() for value in values}
    known |= {0, *parameters.ignored_values}
    found = [item for item in _found(source, recipe, parameters) if item.references]
    for item in found[:: max(1, len(found) // _SAMPLED_FILES)]:
        try:
            values = as_unsigned(read_array(source / item.references[_RATER][0], parameters.reference_key))
        except CaseDataError:
            continue
        if values_present(values if values.ndim > 2 else values[None]) - known:
            return False
    return True


def _as_zyx(image: NDArray[Any], labels: NDArray[Any] | None) -> NDArray[Any]:
    """Array of a file as (z, y, x) or (c, z, y, x)."""
    if image.ndim == 2:
        return image[None]
    is_colour_slice = image.ndim == 3 and labels is not None and labels.ndim == 2 and image.shape[2] in (1, 3, 4)
    if is_colour_slice:
        channels = np.moveaxis(image[..., :3], 2, 0)[:, None]
        return np.ascontiguousarray(channels if len(channels) == 3 else channels[0])
    if image.ndim == 4 and image.shape[3] == 3:
        return np.ascontiguousarray(np.moveaxis(image, 3, 0))
    return image


def _geometry(path: Path, shape_zyx: tuple[int, int, int], parameters: ArrayParameters) -> VolumeGeometry:
    spacing = find_array(path, parameters.spacing_key) if parameters.spacing_key else None
    if spacing is None:
        return VolumeGeometry.pixel_grid(shape_zyx)
    numbers = [float(value) for value in np.ravel(spacing)]
    if len(numbers) != 3 or not all(0 < value < float("inf") for value in numbers):
        msg = f"{parameters.spacing_key} is {numbers}; three spacings above 0 are expected"
        raise CaseDataError(msg)
    x, y, z = numbers if parameters.spacing_order is SpacingOrder.XYZ else reversed(numbers)
    return VolumeGeometry.from_nifti(shape_zyx, np.diag([x, y, z, 1.0]))


def _check_shape(shape: tuple[int, ...], geometry: VolumeGeometry, path: Path) -> None:
    if shape != geometry.shape_zyx:
        msg = f"{path}: the label map has shape {shape}, its image {geometry.shape_zyx} (z, y, x); export it again"
        raise ShapeMismatchError(msg)


def _label_map(
    values: NDArray[Any],
    geometry: VolumeGeometry,
    recipe: Recipe,
    parameters: ArrayParameters,
    texts: CaseTexts | None,
    rater: str,
) -> LabelMap:
    if texts is None:
        return as_label_map(values, geometry, recipe, parameters, rater)
    meanings = texts.structures(parameters.texts)
    if not texts.are_instances:
        own = parameters.model_copy(update={"label_values": {name: [value] for value, name in meanings.items()}})
        return as_label_map(values, geometry, recipe, own, rater)
    labels = as_unsigned(values)
    present = sorted(values_present(labels) - {0})
    structure = meanings[min(meanings)]
    entries = tuple(LabelEntry(value, structure, number) for number, value in enumerate(present, start=1))
    return LabelMap(labels, geometry, entries, rater)


def _modality(path: Path, recipe: Recipe) -> str:
    """Modality of the recipe, or if that is `mixed`, the first part of the file name (`CT_AbdomenAtlas_0001.npz`)."""
    first = path.name.partition("_")[0]
    return first if recipe.modality == "mixed" and first in _MODALITIES else recipe.modality
