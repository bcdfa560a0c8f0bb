"""Which label map belongs to which image of an archive: by what it refers to, else by the grid that it lies on."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import dirname

from medsam3_core.cases.alignment import is_same_grid
from storage.sources.dicom.segmentations import SegmentationHeader
from storage.sources.dicom.series import DicomSeries
from storage.sources.formats.volumes.registry import VOLUME_SUFFIXES, volume_geometry
from storage.sources.listing.files import without_suffix

_WORDS = "references?|labels?|labelmaps?|masks?|segs?|segmentations?|annotations?|ground[ _-]?truth|gt"
_LABEL_NAME = re.compile(rf"(?:^|.*[ ._-])(?:{_WORDS})", re.IGNORECASE)
_LABEL_FOLDER = re.compile(rf"(?:{_WORDS}|labels(?:Tr|Ts))", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A label map of one case; path relative to the source."""

    file: str


def looks_like_labels(name: str) -> bool:
    """Whether a volume is named like a label map: the end of its own name, or a folder above it."""
    *folders, file = name.split("/")
    if _LABEL_NAME.fullmatch(without_suffix(file, VOLUME_SUFFIXES)):
        return True
    return any(_LABEL_FOLDER.fullmatch(folder) for folder in folders)


def match_references(
    root: Path, series: Sequence[DicomSeries], segmentations: Sequence[SegmentationHeader], volumes: Sequence[str]
) -> tuple[dict[str, tuple[LabelFile, ...]], set[str]]:
    """Key of a series to its label maps, and the volumes that were taken.

    A segmentation belongs to the series that it refers to, by series, by instances, or by the coordinate system where
    only one series has it. A volume of labels belongs to the one series at or below its folder, or below the folder
    above, that has its grid; where there is only one series it is that one, and reading it will say what is wrong.
    """
    usable = [one for one in series if one.geometry is not None]
    matched: dict[str, list[LabelFile]] = defaultdict(list)
    for header in segmentations:
        for one in _referred(header, usable):
            matched[one.key].append(LabelFile(header.file))
    taken: set[str] = set()
    for name in volumes:
        if not looks_like_labels(name):
            continue
        one_or_none = _on_the_grid_of(root, name, usable)
        if one_or_none is not None:
            matched[one_or_none.key].append(LabelFile(name))
            taken.add(name)
    return {key: tuple(sorted(files, key=lambda item: item.file)) for key, files in matched.items()}, taken


def _referred(header: SegmentationHeader, series: Sequence[DicomSeries]) -> list[DicomSeries]:
    by_series = [one for one in series if one.headers[0].series_uid in header.series_uids]
    if by_series:
        return by_series
    by_instance = [one for one in series if any(item.sop_uid in header.instance_uids for item in one.headers)]
    if by_instance:
        return by_instance
    same_space = [one for one in series if one.headers[0].frame_of_reference == header.frame_of_reference != ""]
    return same_space if len(same_space) == 1 else []


def _on_the_grid_of(root: Path, name: str, series: Sequence[DicomSeries]) -> DicomSeries | None:
    folder = dirname(name)
    if _LABEL_FOLDER.fullmatch(folder.rsplit("/", 1)[-1]):
        folder = dirname(folder)
    near = [one for one in series if not folder or f"{dirname(one.headers[0].file)}/".startswith(f"{folder}/")]
    geometry = volume_geometry(root / name)
    same = [one for one in near if geometry is not None and one.geometry and is_same_grid(geometry, one.geometry)]
    if len(same) == 1:
        return same[0]
    return near[0] if len(near) == 1 and not same else None
