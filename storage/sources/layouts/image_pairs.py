"""Layout `image-pairs`: 2D images and masks, paired by two folders or by an ending. A case is a volume of one slice."""

from pathlib import Path

import numpy as np
from PIL import Image

from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import Structure
from medsam3_core.errors import CaseDataError
from storage.sources.formats.pixels import Pixels, read_image
from storage.sources.formats.references import ImageReferences
from storage.sources.listing.cases import to_case_sources
from storage.sources.listing.files import (
    ARRAY_SUFFIXES,
    IMAGE_SUFFIXES,
    naming,
    open_source,
    visible_files,
    without_companions,
)
from storage.sources.listing.guesses import pair_recipe
from storage.sources.listing.pairing import guess_patterns, pair_files, raters_in_order, require_cases
from storage.sources.listing.parameters import ImagePairParameters, parameters_of
from storage.sources.listing.recognition import explaining_recipes
from storage.sources.listing.tables import with_pixel_sizes, with_splits_and_patients

_DEEP_MODES = ("I", "F")


class ImagePairs:
    """Engine of the layout `image-pairs`."""

    name = "image-pairs"

    def recognise(self, source: Path) -> Recipe | None:
        """A built-in recipe whose patterns explain most image files, else a generic one, else None.

        Raises:
            UsageError: If a `labels.json` lies in the source and is broken.
        """
        files = visible_files(source, (*IMAGE_SUFFIXES, ".mat"))
        for recipe in explaining_recipes(self.name, files, source.resolve().name):
            return recipe
        images = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
        patterns = guess_patterns(images, IMAGE_SUFFIXES)
        if patterns is None:
            return None
        window = "minmax" if _is_deep(source / images[0]) else "identity"
        structure = Structure("foreground", "foreground")
        return pair_recipe(self.name, source, patterns, modality="unknown", window=window, fallback=(structure,))

    def list_cases(self, source: Path, recipe: Recipe) -> list[CaseSource]:
        """One case per image; see `pair_files` for what is rejected.

        Raises:
            UsageError: If no image is found, or a table that the recipe needs is missing or broken.
        """
        parameters = parameters_of(recipe, ImagePairParameters)
        files = without_companions(visible_files(source, (*IMAGE_SUFFIXES, *ARRAY_SUFFIXES)), recipe.companions)
        found = require_cases(pair_files(files, parameters), source, f"images that match {parameters.image!r}")
        found = with_pixel_sizes(source, with_splits_and_patients(source, found, parameters), parameters)
        return to_case_sources(found, recipe)

    def read_case(self, source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
        """Image with its channels and one label map per rater, primary rater first.

        A single structure without `label_values` is read from binary masks; otherwise pixels are label values.
        """
        parameters = parameters_of(recipe, ImagePairParameters)
        path = source / case.image[0]
        pixels = read_image(path)
        check_window(pixels, recipe, path)
        geometry = pixel_geometry(pixels, case)
        reader = ImageReferences(recipe, parameters)
        references = tuple(
            reader.read(source / case.references[rater][0], path, geometry, rater)
            for rater in raters_in_order(parameters, case.references)
        )
        with naming(path):
            return CaseVolume(pixels.voxels, geometry, references, recipe.modality, attributes=pixels.attributes)


def pixel_geometry(pixels: Pixels, case: CaseSource) -> VolumeGeometry:
    """The grid of an image: in millimetres where the recipe knows the size of its pixels, else in pixels."""
    size = case.extra.get("pixel_size_mm")
    if size is None:
        return VolumeGeometry.pixel_grid(pixels.shape_zyx)
    y, x = size
    return VolumeGeometry.from_nifti(pixels.shape_zyx, np.diag([x, y, 1.0, 1.0]))


def check_window(pixels: Pixels, recipe: Recipe, path: Path) -> None:
    """Refuse an image of more than 8 bits under a policy that would clip it.

    Raises:
        CaseDataError: If the policy is `identity` and pixels exceed 255; names file, value and remedy.
    """
    if pixels.voxels.dtype == np.uint8 or recipe.window != "identity":
        return
    if (largest := float(pixels.voxels.max(initial=0))) > 255:
        msg = f"{path} holds values up to {largest:g}, but recipe {recipe.name!r} has the window identity; use minmax"
        raise CaseDataError(msg)


def _is_deep(path: Path) -> bool:
    """Whether an image has more than 8 bits a channel, by its header; False for files that cannot be opened."""
    try:
        with open_source(path) as file, Image.open(file) as image:
            return image.mode.startswith(_DEEP_MODES)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
