"""Layout `image-pairs`: 2D images and masks, paired by two folders or by an ending. A case is a volume of one slice."""

from collections.abc import Iterable
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
        return pair_recipe(
            self.name, source, patterns, window=window, fallback=(Structure("foreground", "foreground"),)
        )

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
        pixels, _ = read_for_recipe(path, recipe)
        return image_case(pixels, source, case, recipe, parameters, raters_in_order(parameters, case.references))


def image_case(
    pixels: Pixels,
    source: Path,
    case: CaseSource,
    recipe: Recipe,
    parameters: ImagePairParameters,
    raters: Iterable[str],
) -> CaseVolume:
    """The case of an image, in millimetres if the size of its pixels is known, with one label map per rater.

    Raises:
        CaseDataError: As `ImageReferences.read`, or if the image holds NaN or infinite values; names the file.
    """
    path, geometry = source / case.image[0], VolumeGeometry.pixel_grid(pixels.shape_zyx)
    if (size := case.extra.get("pixel_size_mm")) is not None:
        geometry = VolumeGeometry.from_nifti(pixels.shape_zyx, np.diag([size[1], size[0], 1.0, 1.0]))
    reader = ImageReferences(recipe, parameters)
    references = tuple(reader.read(source / case.references[rater][0], path, geometry, rater) for rater in raters)
    with naming(path):
        return CaseVolume(pixels.voxels, geometry, references, recipe.modality, attributes=pixels.attributes)


def read_for_recipe(path: Path, recipe: Recipe) -> tuple[Pixels, VolumeGeometry]:
    """Read an image whose values the window of the recipe does not clip, and its grid in pixels.

    Raises:
        CaseDataError: If the window is `identity` and pixels exceed 255, or as `read_image`; names file, value and
            remedy.
    """
    pixels = read_image(path)
    if recipe.window == "identity" and (largest := float(pixels.voxels.max(initial=0))) > 255:
        msg = f"{path} holds values up to {largest:g}, but recipe {recipe.name!r} has the window identity; use minmax"
        raise CaseDataError(msg)
    return pixels, VolumeGeometry.pixel_grid(pixels.shape_zyx)


def _is_deep(path: Path) -> bool:
    """True if an image has more than 8 bits a channel, by its header; False for files that cannot be opened."""
    try:
        with open_source(path) as file, Image.open(file) as image:
            return image.mode.startswith(_DEEP_MODES)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
