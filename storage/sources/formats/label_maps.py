"""Turn voxel values of a file into a `LabelMap` of named integers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import LabelEntry, LabelMap
from medsam3_core.errors import LabelValueError
from storage.sources.listing.parameters import LabelParameters

_MAX_LABEL = 65_535


def structure_values(recipe: Recipe, parameters: LabelParameters) -> dict[str, list[int]]:
    """Structure to its values: `label_values` of the recipe, else 1..n in the order of its structures."""
    if parameters.label_values:
        return parameters.label_values
    return {structure.name: [value] for value, structure in enumerate(recipe.structures, start=1)}


def as_label_map(
    values: NDArray[Any], geometry: VolumeGeometry, recipe: Recipe, parameters: LabelParameters, rater: str
) -> LabelMap:
    """Label map of voxel values of any numeric dtype, shape (z, y, x); ignored values become background.

    Raises:
        LabelValueError: If values are NaN, fractional, negative, above 65,535 or without a name.
    """
    meanings = structure_values(recipe, parameters)
    labels = as_unsigned(values)
    known = {value for named in meanings.values() for value in named} | set(parameters.ignored_values)
    present = values_present(labels)
    if unnamed := sorted(present - known - {0}):
        listed = ", ".join(f"{value} {name}" for name, values in meanings.items() for value in values) or "none"
        msg = (
            f"label value {unnamed[0]} has no name ({len(unnamed)} such values; named values: {listed}); name it in "
            "labels.json beside the data or in label_values of the recipe"
        )
        raise LabelValueError(msg)
    if ignored := present & set(parameters.ignored_values):
        labels = np.where(np.isin(labels, sorted(ignored)), labels.dtype.type(0), labels)
    entries = tuple(
        LabelEntry(value, structure.name)
        for structure in recipe.structures
        for value in meanings.get(structure.name, ())
        if value in present
    )
    return LabelMap(labels, geometry, entries, rater)


def as_unsigned(values: NDArray[Any]) -> NDArray[Any]:
    """The same integers as uint8 or uint16, the smaller type that holds them.

    Raises:
        LabelValueError: If values are NaN, fractional, negative or above 65,535.
    """
    if np.issubdtype(values.dtype, np.floating):
        fractional = ~np.isfinite(values) | (values != np.rint(values))
        if fractional.any():
            msg = (
                f"label value {values[fractional][0]!s} is not an integer ({int(fractional.sum())} such voxels); the "
                "label map was interpolated, resample it with nearest neighbour"
            )
            raise LabelValueError(msg)
    smallest, largest = values.min(initial=0), values.max(initial=0)
    if smallest < 0 or largest > _MAX_LABEL:
        msg = f"label values run from {smallest} to {largest}; 0 to {_MAX_LABEL} are expected, re-export the label map"
        raise LabelValueError(msg)
    return values.astype(np.uint8 if largest <= 255 else np.uint16, copy=False)


def values_present(labels: NDArray[Any]) -> set[int]:
    """Distinct values of an unsigned array, collected slice by slice to avoid a copy of the volume."""
    present = np.zeros(int(labels.max(initial=0)) + 1, dtype=bool)
    for plane in labels:
        present[plane] = True
    return set(np.flatnonzero(present).tolist())
