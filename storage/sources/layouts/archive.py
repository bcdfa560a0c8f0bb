"""Layout `archive`: a tree of DICOM (under any file names), volumes and images, listed in one walk.

Every DICOM series, volume and image is a case; unusable files are listed as rejected with their reason. Label maps
(DICOM segmentations, volumes named like label maps) become references of the image with the same grid. Paths that name
a patient are shown without the name.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medsam3_core.cases.alignment import place_on
from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.series_geometry import SeriesFault, SeriesRejectedError
from medsam3_core.cases.structures import LabelMap, Structure
from medsam3_core.errors import CaseDataError, UsageError
from storage.sources.dicom.segmentations import read_segmentation
from storage.sources.dicom.volumes import read_dicom_case
from storage.sources.formats.label_maps import as_label_map
from storage.sources.formats.pixels import read_image
from storage.sources.formats.volumes.registry import VOLUME_SUFFIXES, is_volume, read_volume
from storage.sources.layouts.archive_listing import ArchiveListing, holds_dicom, list_archive
from storage.sources.layouts.image_pairs import image_case
from storage.sources.layouts.nifti_pairs import volume_case
from storage.sources.listing.cases import FoundCase, to_case_sources
from storage.sources.listing.files import naming, seen_once, without_suffix
from storage.sources.listing.guesses import normal_modality
from storage.sources.listing.labels import structure_slug
from storage.sources.listing.parameters import ArchiveParameters, ImagePairParameters, parameters_of
from storage.store.pseudonyms import Pseudonyms, load_key

_VOLUME = "nifti"
"""Kind of a case of any volume format; fingerprints of sources contain this word."""
_FOREGROUND = Structure("foreground", "foreground")


class Archive:
    """Engine of the layout `archive`."""

    name = "archive"

    def recognise(self, source: Path) -> Recipe | None:
        """A recipe for a tree that holds DICOM; None for other trees, which other layouts describe better.

        Raises:
            UsageError: If a `labels.json` lies in the source and is broken.
        """
        return self._recipe(source, _listed(source)) if holds_dicom(source) else None

    def recipe_of(self, source: Path) -> Recipe | None:
        """A recipe for any tree that holds a readable file, else None."""
        listing = _listed(source)
        is_empty = not (listing.series or listing.volumes or listing.images)
        return None if is_empty else self._recipe(source, listing)

    def list_cases(self, source: Path, recipe: Recipe) -> list[CaseSource]:
        """Every series, volume and image; see `list_archive` for what is rejected."""
        listing = _listed(source)
        found = [*_dicom_cases(listing), *_other_cases(listing), *_foreign(listing)]
        if not any(item.image for item in found):
            msg = f"{source} holds no DICOM, volume or image file; give the folder that holds the archive"
            raise UsageError(msg)
        return to_case_sources(_with_distinct_keys(found), recipe)

    def read_case(self, source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
        """Image and references on the grid of the image; messages do not name the patient."""
        try:
            return self._read(source, case, recipe)
        except CaseDataError as error:
            raise type(error)(without_names(str(error), case)) from None

    def _read(self, source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
        kind = case.extra["kind"]
        if kind == "image":
            labels = parameters_of(recipe, ArchiveParameters)
            parameters = ImagePairParameters(image="(?P<key>.+)", **labels.model_dump())
            pixels = read_image(source / case.image[0])
            return image_case(pixels, source, case, recipe, parameters, case.references)
        if kind == _VOLUME:
            image = read_volume(source / case.image[0])
            volume = volume_case(source / case.image[0], image, (), recipe)
        else:
            volume = read_dicom_case(source, case, recipe)
        references = tuple(
            _read_reference(source / files[0], volume, recipe, rater) for rater, files in case.references.items()
        )
        return replace(volume, references=references)

    def _recipe(self, source: Path, listing: ArchiveListing) -> Recipe:
        table = listing.labels
        known = {structure.name: structure for structure in table.structures}
        for segmentation in listing.segmentations:
            for structure in segmentation.structures:
                known.setdefault(structure.name, structure)
        if not known and any(item.references for item in listing.images):
            known[_FOREGROUND.name] = _FOREGROUND
        modalities = {one.headers[0].modality for one in listing.series if one.reason is None}
        modalities |= {"unknown"} if listing.volumes or listing.images else set()
        modality = normal_modality(modalities.pop()) if len(modalities) == 1 else "mixed"
        return Recipe(
            name=structure_slug(source.resolve().name),
            layout=self.name,
            structures=tuple(known.values()),
            modality=modality,
            window="auto",
            parameters=table.parameters(),
            traps=("Derived from an archive; name structures and texts in labels.json or give --recipe FILE.",),
        )


def _listed(source: Path) -> ArchiveListing:
    return seen_once("archive", source, lambda: list_archive(source, Pseudonyms(load_key())))


def without_names(text: str, case: CaseSource) -> str:
    """A message in which the parts of paths that name the patient are replaced by pseudonyms."""
    return _hide(text, case.extra.get("hidden", ()))


def _dicom_cases(listing: ArchiveListing) -> Iterator[FoundCase]:
    for one in listing.series:
        hidden = sorted({pair for header in one.headers for pair in header.hidden}, key=lambda pair: -len(pair[0]))
        patients = {header.patient for header in one.headers if header.patient}
        yield FoundCase(
            one.key,
            tuple(header.file for header in one.headers),
            _raters(listing.labels_of.get(one.key, ())),
            reject_reason=one.reason and _hide(one.reason, hidden),
            patient=patients.pop() if len(patients) == 1 else None,
            extra=_extra("dicom", one.headers[0].file, hidden),
        )


def _with_distinct_keys(found: Sequence[FoundCase]) -> Iterator[FoundCase]:
    """Of `a.nii.gz`, `a.png` and `a.jpg` in one folder the first is the case `a`, the others keep their suffix."""
    taken: set[str] = set()
    for item in sorted(found, key=lambda item: (item.key, item.origin)):
        yield item if item.key not in taken else replace(item, key=item.extra["shown"])
        taken.add(item.key)


def _raters(files: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """One rater per label file: `reference` for a single file, else the names of the files."""
    if len(files) == 1:
        return {"reference": (files[0],)}
    names: dict[str, tuple[str, ...]] = {}
    for file in files:
        name = structure_slug(without_suffix(file.rsplit("/", 1)[-1], VOLUME_SUFFIXES))
        names[name if name not in names else f"{name}-{len(names) + 1}"] = (file,)
    return names


def _other_cases(listing: ArchiveListing) -> Iterator[FoundCase]:
    for kind, cases in ((_VOLUME, listing.volumes), ("image", listing.images)):
        for item in cases:
            hidden = [pair for pair in listing.hidden if any(pair[0] in name.split("/") for name in item.image)]
            key = "/".join(dict(hidden).get(part, part) for part in item.key.split("/"))
            reason = item.reject_reason and _hide(item.reject_reason, hidden)
            yield replace(item, key=key, extra=_extra(kind, item.origin, hidden), reject_reason=reason)


def _foreign(listing: ArchiveListing) -> Iterator[FoundCase]:
    for file in listing.foreign:
        extra = _extra("dicom", file, [pair for pair in listing.hidden if pair[0] in file.split("/")])
        msg = f"{extra['shown']} is neither DICOM nor another known file type; remove or repair it"
        reason = str(SeriesRejectedError.of(SeriesFault.NOT_DICOM, msg))
        yield FoundCase(extra["shown"], (file,), reject_reason=reason, extra=extra)


def _extra(kind: str, origin: str, hidden: Iterable[tuple[str, str]]) -> dict[str, Any]:
    return {"kind": kind, "hidden": [list(pair) for pair in hidden], "shown": _hide(origin, hidden)}


def _hide(text: str, hidden: Iterable[Sequence[str]]) -> str:
    for part, shown in hidden:
        text = text.replace(part, shown)
    return text


def _read_reference(path: Path, volume: CaseVolume, recipe: Recipe, rater: str) -> LabelMap:
    if not is_volume(path.name):
        return read_segmentation(path, volume.geometry, rater)
    stored = read_volume(path)
    with naming(path):
        values = place_on(stored.voxels, stored.geometry, volume.geometry)
        return as_label_map(values, volume.geometry, recipe, parameters_of(recipe, ArchiveParameters), rater)
