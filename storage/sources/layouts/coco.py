"""Layout `coco`: images with instances in COCO JSON files (polygons, run lengths, crowds)."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.findings import FindingKind
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import LabelMap, Structure
from medsam3_core.errors import CaseDataError, ShapeMismatchError, UsageError
from storage.sources.formats.shapes import overlay_instances
from storage.sources.layouts.image_pairs import read_for_recipe
from storage.sources.listing.cases import FoundCase, to_case_sources
from storage.sources.listing.files import IMAGE_SUFFIXES, naming, visible_files, without_suffix
from storage.sources.listing.guesses import pair_recipe
from storage.sources.listing.labels import read_index, structure_slug
from storage.sources.listing.pairing import require_cases
from storage.sources.listing.parameters import CocoParameters, parameters_of

_RATER = "reference"
_SPLIT = re.compile(r"(?:^|[/_.-])(train|val|valid|test)(?:\d{4})?(?=[/_.-])", re.IGNORECASE)
_MAX_INDEX_BYTES = 2 * 1024**3


class Coco:
    """Engine of the layout `coco`."""

    name = "coco"

    def recognise(self, source: Path) -> Recipe | None:
        """A recipe from the categories of the annotation files; None if no JSON file has COCO's three lists."""
        if not _annotation_files(source, CocoParameters()) or not visible_files(source, IMAGE_SUFFIXES):
            return None
        recipe = pair_recipe(self.name, source, {}, window="identity")
        traps = ("Derived from the categories; texts are their names. Instances of a category may overlap.",)
        return self.complete(source, replace(recipe, structures=(), parameters={}, traps=traps, negatives=True))

    def complete(self, source: Path, recipe: Recipe) -> Recipe:
        """The recipe, with one structure per category of the files if it has none."""
        if recipe.structures:
            return recipe
        parameters = parameters_of(recipe, CocoParameters)
        categories: dict[str, list[str]] = {}
        for _, index in _annotation_files(source, parameters):
            for category in index["categories"]:
                name = str(category["name"])
                names = categories.setdefault(structure_slug(name), [])
                if name not in names:
                    names.append(name)
        if not categories:
            msg = f"{source} has no COCO file with categories; name structures in a recipe"
            raise UsageError(msg)
        structures = tuple(
            Structure(slug, names[0].replace("_", " ").lower(), instances=True) for slug, names in categories.items()
        )
        return replace(recipe, structures=structures, parameters={**recipe.parameters, "categories": categories})

    def list_cases(self, source: Path, recipe: Recipe) -> list[CaseSource]:
        """One case per image that an annotation file lists, with the split that its file or folder names."""
        parameters = parameters_of(recipe, CocoParameters)
        files = visible_files(source, IMAGE_SUFFIXES)
        structure_of = {name: slug for slug, names in parameters.categories.items() for name in names}
        structure_of = structure_of or {item.text: item.name for item in recipe.structures}
        found: list[FoundCase] = []
        for path, index in _annotation_files(source, parameters):
            found += _listed(path, index, files, structure_of)
        return to_case_sources(require_cases(found, source, "images that a COCO file lists"), recipe)

    def read_case(self, source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
        """Image and its instances; crowds are left out and counted.

        Raises:
            CaseDataError: If the image is unreadable or differs in size from its entry, or a polygon is broken.
        """
        path = source / case.image[0]
        pixels, geometry = read_for_recipe(path, recipe)
        _, height, width = geometry.shape_zyx
        stated_height, stated_width = case.extra["size"]
        if (height, width) != (stated_height, stated_width):
            msg = (
                f"{path} has {width} x {height} pixels, its annotations are for {stated_width} x {stated_height}; "
                "find the image that was annotated"
            )
            raise ShapeMismatchError(msg)
        annotations, instances = case.extra["annotations"], []
        for number, item in enumerate(annotations):
            if not item["crowd"]:
                with naming(path, f"annotation {number}"):
                    instances.append((item["structure"], _drawn(item["segmentation"], height, width)))
        with naming(path):
            labels, entries, contested = overlay_instances(geometry.shape_zyx, instances)
            attributes = {
                **pixels.attributes,
                "overlapping_pixels": contested,
                "crowds_left_out": sum(item["crowd"] for item in annotations),
            }
            reference = LabelMap(labels, geometry, entries, _RATER)
            return CaseVolume(pixels.voxels, geometry, (reference,), recipe.modality, attributes=attributes)


def _annotation_files(source: Path, parameters: CocoParameters) -> list[tuple[str, dict[str, Any]]]:
    """Paths and contents of JSON files with `images`, `annotations` and `categories`."""
    pattern = re.compile(parameters.annotations, re.IGNORECASE)
    found = []
    for name in visible_files(source, (".json",)):
        path = source / name
        if pattern.fullmatch(name) and path.stat().st_size <= _MAX_INDEX_BYTES and _looks_like_coco(path):
            content = read_index(path)
            if all(isinstance(content.get(key), list) for key in ("images", "annotations", "categories")):
                found.append((name, content))
    return found


def _looks_like_coco(path: Path) -> bool:
    """True if the text names the three lists, to avoid parsing other JSON files."""
    text = path.read_bytes()
    return all(f'"{key}"'.encode() in text for key in ("images", "annotations", "categories"))


def _listed(path: str, index: dict[str, Any], files: list[str], structure_of: dict[str, str]) -> Iterator[FoundCase]:
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    names = {category["id"]: str(category["name"]) for category in index["categories"]}
    unknown: dict[Any, str] = {}
    for item in index["annotations"]:
        category = names.get(item.get("category_id"), str(item.get("category_id")))
        if category not in structure_of:
            unknown[item.get("image_id")] = category
            continue
        by_image[item.get("image_id")].append(
            {
                "structure": structure_of[category],
                "segmentation": item.get("segmentation"),
                "crowd": bool(item.get("iscrowd", 0)),
            }
        )
    match = _SPLIT.search(path)
    split = {"valid": "val"}.get(match.group(1).lower(), match.group(1).lower()) if match else None
    finder = _ImageFinder(path, files)
    for image in index["images"]:
        name = str(image.get("file_name", ""))
        candidates = finder.find(name, split)
        reason = None
        if len(candidates) != 1:
            reason = f"{path}: image {name!r} is found {len(candidates)} times {candidates[:3]}; one is expected"
        elif image.get("id") in unknown:
            reason = f"{path}: image {name!r} has the category {unknown[image['id']]!r} without a structure; name it"
        stem = without_suffix(PurePosixPath(name).as_posix(), IMAGE_SUFFIXES)
        size = [image.get("height"), image.get("width")]
        extra = {"size": size, "annotations": by_image.get(image.get("id"), [])}
        key = f"{split}/{stem}" if split else stem
        image_files, references = tuple(candidates[:1]), {_RATER: (path,)}
        yield FoundCase(key, image_files, references, split, reason, None, extra, FindingKind.MISSING_IMAGE)


class _ImageFinder:
    """Finds the file of an image entry: relative to the source, relative to the JSON file, else by its file name."""

    def __init__(self, index_path: str, files: Iterable[str]) -> None:
        self._folder = PurePosixPath(index_path).parent
        self._files = frozenset(files)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for name in files:
            self._by_name[name.rpartition("/")[2]].append(name)

    def find(self, name: str, split: str | None) -> list[str]:
        """Files that match the entry; the one in a folder of its split, if there is one."""
        for candidate in (PurePosixPath(name).as_posix(), (self._folder / name).as_posix()):
            if candidate in self._files:
                return [candidate]
        found = self._by_name.get(PurePosixPath(name).name, [])
        own = [path for path in found if split and re.search(rf"(?:^|/){split}", path, re.IGNORECASE)]
        return own if len(own) == 1 else found


def _drawn(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Mask (1, y, x) of polygons or run lengths.

    Raises:
        CaseDataError: If it is neither, or covers no pixel.
    """
    try:
        if isinstance(segmentation, list):
            polygons = [[float(value) for value in polygon] for polygon in segmentation if len(polygon) >= 6]
            runs = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        elif isinstance(segmentation["counts"], list):
            runs = coco_mask.frPyObjects(segmentation, height, width)
        else:
            runs = {"size": segmentation["size"], "counts": segmentation["counts"].encode()}
        mask = coco_mask.decode(runs).astype(bool)
    except Exception as error:  # pycocotools raises bare Exception on unknown input
        msg = f"segmentation {str(segmentation)[:60]} is neither polygon nor run length ({error}); correct it"
        raise CaseDataError(msg) from error
    if mask.shape != (height, width) or not mask.any():
        msg = f"segmentation {str(segmentation)[:60]} covers no pixel of the image; correct or remove it"
        raise CaseDataError(msg)
    return np.ascontiguousarray(mask)[None]
