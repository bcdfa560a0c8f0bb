"""Layout `instance-masks`: per case a folder with one image and a folder with one mask file per instance (DSB18)."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.findings import FindingKind
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import LabelEntry, LabelMap, Structure
from medsam3_core.errors import CaseDataError
from storage.sources.formats.pixels import read_binary_mask
from storage.sources.formats.references import check_same_size
from storage.sources.layouts.image_pairs import read_for_recipe
from storage.sources.listing.cases import FoundCase, to_case_sources
from storage.sources.listing.files import IMAGE_SUFFIXES, naming, visible_files
from storage.sources.listing.guesses import pair_recipe
from storage.sources.listing.pairing import require_cases
from storage.sources.listing.parameters import InstanceMaskParameters, parameters_of
from storage.sources.listing.recipes import builtin_recipes

_RATER = "reference"
_SPLIT_FOLDERS = ("train", "training", "trainval", "test", "testing", "val", "valid", "validation")


class InstanceMasks:
    """Engine of the layout `instance-masks`."""

    name = "instance-masks"

    def recognise(self, source: Path) -> Recipe | None:
        """A built-in recipe that explains most case folders, else a generic one, else None.

        Raises:
            UsageError: If a `labels.json` lies in the source and is broken.
        """
        found = _find(source, InstanceMaskParameters())
        usable = [item for item in found if item.references and not item.reject_reason and not _is_split(item.key)]
        if 2 * len(usable) <= len(found):
            return None
        for recipe in builtin_recipes().values():
            if recipe.layout == self.name:
                explained = _find(source, parameters_of(recipe, InstanceMaskParameters))
                if 2 * len(explained) > len(found):
                    return recipe
        derived = pair_recipe(self.name, source, {}, window="identity", fallback=(Structure("object", "object"),))
        structure = replace(derived.structures[0], instances=True)
        return replace(derived, structures=(structure,), parameters={})

    def list_cases(self, source: Path, recipe: Recipe) -> list[CaseSource]:
        """One case per folder that holds a folder of images; a folder without folder of masks is rejected."""
        parameters = parameters_of(recipe, InstanceMaskParameters)
        expected = f"folders CASE/{parameters.image_folder}/IMAGE and CASE/{parameters.mask_folder}/*"
        return to_case_sources(require_cases(_find(source, parameters), source, expected), recipe)

    def read_case(self, source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
        """Image and one label value per mask file, in order of file name.

        A pixel of several masks belongs to the first of them; `overlapping_pixels` in the attributes counts these. An
        empty folder of masks is a case without instances.

        Raises:
            CaseDataError: If a file is unreadable, of another size, not binary, empty, or covered by earlier masks.
        """
        path = source / case.image[0]
        pixels, geometry = read_for_recipe(path, recipe)
        files = [source / name for name in case.references.get(_RATER, ())]
        labels, overlapping = _merge(files, geometry, path)
        structure = recipe.structures[0].name
        entries = tuple(LabelEntry(value, structure, value) for value in range(1, len(files) + 1))
        attributes: dict[str, Any] = {**pixels.attributes, "overlapping_pixels": overlapping}
        with naming(path):
            reference = LabelMap(labels, geometry, entries, _RATER)
            return CaseVolume(pixels.voxels, geometry, (reference,), recipe.modality, attributes=attributes)


def _is_split(key: str) -> bool:
    """True if a folder is named like a split: `train/images` and `train/masks` hold many cases."""
    return key.rpartition("/")[2].lower() in _SPLIT_FOLDERS


def _merge(files: list[Path], geometry: VolumeGeometry, image: Path) -> tuple[NDArray[np.uint16], int]:
    """Label map (1, y, x) with values 1..n in the order of `files`, and the number of pixels claimed twice."""
    labels = np.zeros(geometry.shape_zyx, dtype=np.uint16)
    overlapping = 0
    for value, path in enumerate(files, start=1):
        instance = read_binary_mask(path)
        check_same_size(instance.shape, geometry, path, image)
        free = instance & (labels == 0)
        if not free.any():
            state = "is covered by earlier masks" if instance.any() else "marks no pixel"
            msg = f"{path} {state}; correct it or delete the file"
            raise CaseDataError(msg)
        overlapping += int(instance.sum() - free.sum())
        labels[free] = value
    return labels, overlapping


def _find(source: Path, parameters: InstanceMaskParameters) -> list[FoundCase]:
    images: dict[str, list[str]] = {}
    masks: dict[str, list[str]] = {}
    folders = {parameters.image_folder: images, parameters.mask_folder: masks}
    for path in visible_files(source, IMAGE_SUFFIXES):
        key, _, folder = path.rpartition("/")[0].rpartition("/")
        if key and folder in folders:
            folders[folder].setdefault(key, []).append(path)
    pattern = re.compile(parameters.key_pattern or ".*")
    return [
        _found_case(source, key, images.get(key, []), masks.get(key, []), parameters.mask_folder)
        for key in sorted(images.keys() | masks.keys())
        if pattern.fullmatch(key)
    ]


def _found_case(source: Path, key: str, images: list[str], masks: list[str], mask_folder: str) -> FoundCase:
    reason, kind = None, FindingKind.REJECTED
    if len(images) != 1:
        kind = FindingKind.REJECTED if images else FindingKind.MISSING_IMAGE
        reason = f"{key} has {len(images)} images {images[:3]}; exactly one is expected"
    elif not masks and not (source / key / mask_folder).is_dir():
        kind = FindingKind.MISSING_REFERENCE
        reason = f"{images[0]}: the folder {key}/{mask_folder} is missing; add it (empty if there is no instance)"
    references = {} if reason and not masks else {_RATER: tuple(masks)}
    return FoundCase(key, tuple(images), references, reject_reason=reason, reject_kind=kind)
