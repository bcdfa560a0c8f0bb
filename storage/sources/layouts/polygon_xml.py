"""Layout `polygon-xml`: images with outlines in one XML file per patient, as in the original DDTI release."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.findings import FindingKind
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import LabelMap
from medsam3_core.errors import CaseDataError, UnreadableFileError
from storage.sources.formats.shapes import overlay_instances
from storage.sources.layouts.image_pairs import read_for_recipe
from storage.sources.listing.cases import FoundCase, to_case_sources
from storage.sources.listing.files import IMAGE_SUFFIXES, naming, open_source, visible_files
from storage.sources.listing.pairing import require_cases
from storage.sources.listing.parameters import PolygonXmlParameters, parameters_of
from storage.sources.listing.recipes import builtin_recipes

_RATER = "reference"
_MAX_BYTES = 64 * 1024**2


class PolygonXml:
    """Engine of the layout `polygon-xml`."""

    name = "polygon-xml"

    def recognise(self, source: Path) -> Recipe | None:
        """A built-in recipe that pairs more than half of the images with an XML file."""
        images = visible_files(source, IMAGE_SUFFIXES)
        for recipe in builtin_recipes().values():
            if recipe.layout == self.name and images:
                found = _found(source, parameters_of(recipe, PolygonXmlParameters))
                if 2 * sum(bool(item.references) for item in found) > len(images):
                    return recipe
        return None

    def list_cases(self, source: Path, recipe: Recipe) -> list[CaseSource]:
        """One case per image; an image without XML file is rejected."""
        parameters = parameters_of(recipe, PolygonXmlParameters)
        expected = f"images that match {parameters.image!r} and XML files that match {parameters.outlines!r}"
        return to_case_sources(require_cases(_found(source, parameters), source, expected), recipe)

    def read_case(self, source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
        """Image and one instance per outline; an image without outline is a case without instances.

        Raises:
            CaseDataError: If a file is unreadable or an outline has fewer than three points.
        """
        path, xml = source / case.image[0], source / case.references[_RATER][0]
        pixels, geometry = read_for_recipe(path, recipe)
        structure = recipe.structures[0].name
        with naming(xml):
            outlines = _outlines(xml, case.extra["image"])
            instances = [(structure, _filled(outline, geometry.shape_zyx)) for outline in outlines]
        with naming(path):
            labels, entries, contested = overlay_instances(geometry.shape_zyx, instances)
            reference = LabelMap(labels, geometry, entries, _RATER)
            attributes = {**pixels.attributes, "overlapping_pixels": contested}
            return CaseVolume(pixels.voxels, geometry, (reference,), recipe.modality, attributes=attributes)


def _found(source: Path, parameters: PolygonXmlParameters) -> list[FoundCase]:
    pattern, outlines = re.compile(parameters.image, re.IGNORECASE), re.compile(parameters.outlines, re.IGNORECASE)
    files: dict[str, list[str]] = {}
    for name in visible_files(source, (".xml",)):
        if match := outlines.fullmatch(name):
            files.setdefault(match.group("patient"), []).append(name)
    found = []
    for name in visible_files(source, IMAGE_SUFFIXES):
        if match := pattern.fullmatch(name):
            own = files.get(match.group("patient"), [])
            patient, reason = match.group("patient"), None
            if len(own) != 1:
                reason = f"{name}: {len(own)} files with outlines of patient {patient!r}; one is expected"
            references = {_RATER: (own[0],)} if own else {}
            extra = {"image": match.group("image")}
            key, kind = match.group("key"), FindingKind.MISSING_REFERENCE
            found.append(FoundCase(key, (name,), references, None, reason, patient, extra, kind))
    return found


def _outlines(path: Path, image: str) -> list[list[tuple[float, float]]]:
    """Points (x, y) of every outline of one image.

    Raises:
        CaseDataError: If the file is not XML, or an outline is not a list of at least three points.
    """
    try:
        with open_source(path) as file:
            text = file.read(_MAX_BYTES)
        if b"<!ENTITY" in text or b"<!DOCTYPE" in text:
            msg = "declares entities, which are not supported; remove them"
            raise CaseDataError(msg)
        marks = ElementTree.fromstring(text).iter("mark")
    except (OSError, ElementTree.ParseError) as error:
        msg = f"cannot be read as XML ({error}); it may be truncated, copy or export it again"
        raise UnreadableFileError(msg) from error
    outlines = []
    for mark in marks:
        drawn = mark.findtext("svg")
        if (mark.findtext("image") or "").strip() == image and drawn and drawn.strip():
            outlines += [_points(shape) for shape in _shapes(drawn)]
    return outlines


def _shapes(drawn: str) -> list[Any]:
    try:
        shapes = json.loads(drawn)
    except ValueError as error:
        msg = f"outline {drawn[:60]!r} is not valid JSON ({error}); correct it"
        raise CaseDataError(msg) from error
    return shapes if isinstance(shapes, list) else [shapes]


def _points(shape: Any) -> list[tuple[float, float]]:
    try:
        points = [(float(point["x"]), float(point["y"])) for point in shape["points"]]
    except (KeyError, TypeError, ValueError) as error:
        msg = f"outline {str(shape)[:60]} has no points with x and y; correct it"
        raise CaseDataError(msg) from error
    if len(points) < 3:
        msg = f"an outline has {len(points)} points; three or more are expected, correct it"
        raise CaseDataError(msg)
    return points


def _filled(outline: list[tuple[float, float]], shape_zyx: tuple[int, int, int]) -> NDArray[np.bool_]:
    _, height, width = shape_zyx
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon(outline, fill=1, outline=1)
    mask = np.asarray(canvas, dtype=bool)[None]
    if not mask.any():
        msg = f"the outline that starts at {outline[0]} covers no pixel of the image; correct it"
        raise CaseDataError(msg)
    return mask
