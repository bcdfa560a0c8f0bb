"""Read the reference of one rater for a 2D image: binary masks, outlines, label values, colours, instance arrays."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import LabelEntry, LabelMap
from medsam3_core.errors import LabelValueError, ShapeMismatchError
from storage.sources.formats.arrays import find_array, read_array
from storage.sources.formats.label_maps import as_label_map, as_unsigned, structure_values, values_present
from storage.sources.formats.pixels import read_binary_mask, read_colours, read_label_values
from storage.sources.formats.shapes import compact, component_labels, fill_outline
from storage.sources.listing.files import ARRAY_SUFFIXES, naming
from storage.sources.listing.parameters import ImagePairParameters, InstanceRule


@dataclass(frozen=True)
class ImageReferences:
    """Reads references by the rules of one recipe.

    Attributes:
        recipe: Names the structures.
        parameters: Describe the drawing of structures in the files.
    """

    recipe: Recipe
    parameters: ImagePairParameters

    def read(self, path: Path, image: Path, geometry: VolumeGeometry, rater: str) -> LabelMap:
        """The label map of one rater.

        Raises:
            CaseDataError: If the file is unreadable, differs in size from its image, or holds values that the recipe
                does not allow; names files and values.
        """
        if path.name.lower().endswith(ARRAY_SUFFIXES):
            return self._from_arrays(path, image, geometry, rater)
        if self.parameters.instances is InstanceRule.VALUES:
            values = read_label_values(path)
            check_same_size(values.shape, geometry, path, image)
            with naming(path):
                return self._instances(as_unsigned(values), None, geometry, rater)
        labels = self._semantic(path, image, geometry, rater)
        if self.parameters.instances is not InstanceRule.COMPONENTS:
            return labels
        with naming(path):
            numbered, entries = component_labels(labels.voxels, list(labels.entries))
            return LabelMap(numbered, geometry, tuple(entries), rater)

    def _semantic(self, path: Path, image: Path, geometry: VolumeGeometry, rater: str) -> LabelMap:
        if self.parameters.label_colours:
            colours = read_colours(path)
            check_same_size(colours.shape[:3], geometry, path, image)
            with naming(path):
                return self._from_colours(colours, geometry, rater)
        if len(self.recipe.structures) == 1 and not self.parameters.label_values:
            mask = read_binary_mask(path, threshold=self.parameters.mask_threshold)
            check_same_size(mask.shape, geometry, path, image)
            with naming(path):
                values = fill_outline(mask, self.parameters.fill).astype(np.uint8)
                entries = (LabelEntry(1, self.recipe.structures[0].name),) if values.any() else ()
                return LabelMap(values, geometry, entries, rater)
        values = read_label_values(path)
        check_same_size(values.shape, geometry, path, image)
        with naming(path):
            return as_label_map(values, geometry, self.recipe, self.parameters, rater)

    def _from_colours(self, colours: NDArray[np.uint8], geometry: VolumeGeometry, rater: str) -> LabelMap:
        codes = (colours.astype(np.uint32) * np.array([65_536, 256, 1], dtype=np.uint32)).sum(axis=3, dtype=np.uint32)
        labels = np.zeros(geometry.shape_zyx, dtype=np.uint8)
        unknown = codes != 0
        for value, structure in enumerate(self.recipe.structures, start=1):
            for colour in self.parameters.label_colours.get(structure.name, ()):
                hit = codes == int(colour[1:], 16)
                labels[hit] = value
                unknown &= ~hit
        if unknown.any():
            first = int(codes[unknown][0])
            msg = (
                f"colour #{first:06x} has no name ({int(unknown.sum())} pixels); name it in label_colours of the "
                "recipe, or save the mask without smoothing"
            )
            raise LabelValueError(msg)
        present = values_present(labels)
        entries = [
            LabelEntry(value, structure.name)
            for value, structure in enumerate(self.recipe.structures, start=1)
            if value in present
        ]
        return LabelMap(labels, geometry, tuple(entries), rater)

    def _from_arrays(self, path: Path, image: Path, geometry: VolumeGeometry, rater: str) -> LabelMap:
        instance_key = self.parameters.instance_key or "inst_map"
        values = read_array(path, instance_key)
        types = find_array(path, self.parameters.type_key) if self.parameters.type_key else None
        for array in (values, types):
            if array is not None:
                check_same_size((1, *array.shape), geometry, path, image)
        with naming(path):
            if self.parameters.type_key and types is None:
                msg = f"has no array {self.parameters.type_key!r} with the type of each pixel; export it again"
                raise LabelValueError(msg)
            return self._instances(
                as_unsigned(values[None]), None if types is None else as_unsigned(types[None]), geometry, rater
            )

    def _instances(
        self, values: NDArray[Any], types: NDArray[Any] | None, geometry: VolumeGeometry, rater: str
    ) -> LabelMap:
        """One instance per value, renumbered 1..n, of all structures that its most frequent type belongs to."""
        present, flat = np.unique(values, return_inverse=True)
        numbered = compact(flat.reshape(values.shape) + int(present[0] != 0))
        count = int(numbered.max(initial=0))
        if types is None:
            structure = self.recipe.structures[0].name
            entries = [LabelEntry(value, structure, value) for value in range(1, count + 1)]
        else:
            entries = self._typed_entries(_most_frequent(numbered, types, count))
        return LabelMap(numbered, geometry, tuple(entries), rater)

    def _typed_entries(self, type_of: list[int]) -> list[LabelEntry]:
        meanings = structure_values(self.recipe, self.parameters)
        named = {value for values in meanings.values() for value in values} | set(self.parameters.ignored_values)
        if unnamed := sorted(set(type_of) - named):
            msg = f"instance type {unnamed[0]} has no name; name it in label_values of the recipe"
            raise LabelValueError(msg)
        entries = []
        for structure in self.recipe.structures:
            own = [value for value, kind in enumerate(type_of, 1) if kind in meanings.get(structure.name, ())]
            entries += [LabelEntry(value, structure.name, number) for number, value in enumerate(own, start=1)]
        return entries


def check_same_size(mask_shape: tuple[int, ...], geometry: VolumeGeometry, mask: Path, image: Path) -> None:
    """Require that a mask has the size of its image.

    Raises:
        ShapeMismatchError: Names both files and sizes.
    """
    if mask_shape != geometry.shape_zyx:
        _, height, width = geometry.shape_zyx
        own = " x ".join(str(size) for size in reversed(mask_shape[1:]))
        msg = f"{mask} has {own} pixels, its image {image} has {width} x {height}; find the mask of this image"
        raise ShapeMismatchError(msg)


def _most_frequent(numbered: NDArray[Any], types: NDArray[Any], count: int) -> list[int]:
    """Most frequent type above 0 among the pixels of instance 1..n; 0 if none of them has one."""
    kinds = int(types.max(initial=0)) + 1
    votes = np.bincount(numbered.ravel().astype(np.int64) * kinds + types.ravel(), minlength=(count + 1) * kinds)
    table = votes.reshape(count + 1, kinds)[1:]
    if kinds == 1:
        return [0] * count
    best = table[:, 1:].argmax(axis=1) + 1
    return [int(kind) if table[row, kind] else 0 for row, kind in enumerate(best)]
