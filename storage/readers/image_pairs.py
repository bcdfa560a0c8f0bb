"""Layout `image-pairs`: 2D images and masks, paired by two folders or by an ending. A case is a volume of one slice."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medsam3_core.cases import CaseSource, CaseVolume
from medsam3_core.errors import CaseDataError
from medsam3_core.geometry import VolumeGeometry
from medsam3_core.recipes import Recipe
from medsam3_core.structures import LabelEntry, LabelMap, Structure
from storage.readers.generic_recipes import pair_recipe
from storage.readers.label_maps import as_label_map
from storage.readers.listing import to_case_sources
from storage.readers.pairing import guess_patterns, pair_files, raters_in_order, require_cases
from storage.readers.parameters import ImagePairParameters, parameters_of
from storage.readers.pixel_files import Pixels, read_binary_mask, read_image, read_label_values
from storage.readers.source_files import IMAGE_SUFFIXES, naming, visible_files
from storage.recipe_files import builtin_recipes

_DEEP_MODES = ("I", "F")


class ImagePairs:
    """Engine of the layout `image-pairs`."""

    name = "image-pairs"

    def recognise(self, source: Path) -> Recipe | None:
        """A built-in recipe whose patterns explain most image files, else a generic one, else None.

        Raises:
            UsageError: If a `labels.json` lies in the source and is broken.
        """
        files = visible_files(source, IMAGE_SUFFIXES)
        for recipe in builtin_recipes().values():
            if recipe.layout == self.name and files and _explains(recipe, files):
                return recipe
        patterns = guess_patterns(files, IMAGE_SUFFIXES)
        if patterns is None:
            return None
        window = "minmax" if _is_deep(source / files[0]) else "identity"
        structure = Structure("foreground", "foreground")
        return pair_recipe(self.name, source, patterns, modality="unknown", window=window, fallback=(structure,))

    def list_cases(self, source: Path, recipe: Recipe) -> list[CaseSource]:
        """One case per image; see `pair_files` for what is rejected."""
        parameters = parameters_of(recipe, ImagePairParameters)
        found = pair_files(visible_files(source, IMAGE_SUFFIXES), parameters)
        return to_case_sources(require_cases(found, source, f"images that match {parameters.image!r}"), recipe)

    def read_case(self, source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
        """Image with its channels and one label map per rater, primary rater first.

        A single structure without `label_values` is read from binary masks; otherwise pixels are label values.
        """
        parameters = parameters_of(recipe, ImagePairParameters)
        path = source / case.image[0]
        pixels = read_image(path)
        check_window(pixels, recipe, path)
        geometry = VolumeGeometry.pixel_grid(pixels.shape_zyx)
        references = tuple(
            _read_reference(source / case.references[rater][0], path, geometry, recipe, parameters, rater)
            for rater in raters_in_order(parameters, case.references)
        )
        with naming(path):
            return CaseVolume(pixels.voxels, geometry, references, recipe.modality, attributes=pixels.attributes)


def check_window(pixels: Pixels, recipe: Recipe, path: Path) -> None:
    """Refuse an image of more than 8 bits under a policy that would clip it.

    Raises:
        CaseDataError: If the policy is `identity` and pixels exceed 255; names file, value and remedy.
    """
    if recipe.window == "identity" and (largest := float(pixels.voxels.max(initial=0))) > 255:
        msg = f"{path} holds values up to {largest:g}, but recipe {recipe.name!r} has the window identity; use minmax"
        raise CaseDataError(msg)


def check_same_size(mask_shape: tuple[int, ...], geometry: VolumeGeometry, mask: Path, image: Path) -> None:
    """Refuse a mask of another size.

    Raises:
        CaseDataError: Names both files and sizes.
    """
    if mask_shape != geometry.shape_zyx:
        (_, height, width), (_, mask_height, mask_width) = geometry.shape_zyx, mask_shape
        msg = (
            f"{mask} has {mask_width} x {mask_height} pixels, its image {image} {width} x {height}; "
            "find the mask of this image"
        )
        raise CaseDataError(msg)


def _read_reference(
    path: Path, image: Path, geometry: VolumeGeometry, recipe: Recipe, parameters: ImagePairParameters, rater: str
) -> LabelMap:
    is_binary = len(recipe.structures) == 1 and not parameters.label_values
    values: np.ndarray[Any, Any]
    if is_binary:
        values = read_binary_mask(path, threshold=parameters.mask_threshold).astype(np.uint8)
    else:
        values = read_label_values(path)
    check_same_size(values.shape, geometry, path, image)
    with naming(path):
        if is_binary:
            entries = (LabelEntry(1, recipe.structures[0].name),) if values.any() else ()
            return LabelMap(values, geometry, entries, rater)
        return as_label_map(values, geometry, recipe, parameters, rater)


def _explains(recipe: Recipe, files: list[str]) -> bool:
    """Whether more than half of the files belong to cases of this recipe, and at least one pair is whole."""
    parameters = parameters_of(recipe, ImagePairParameters)
    found = pair_files(files, parameters)
    explained = sum(len(item.image) + sum(map(len, item.references.values())) for item in found)
    return 2 * explained > len(files) and any(item.image and item.references for item in found)


def _is_deep(path: Path) -> bool:
    """Whether an image has more than 8 bits a channel, by its header; False for files that cannot be opened."""
    try:
        with Image.open(path) as image:
            return image.mode.startswith(_DEEP_MODES)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
