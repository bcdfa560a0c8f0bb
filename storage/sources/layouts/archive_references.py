"""Match label maps of an archive with images: by their references to series, else by their grid."""

import re
from collections import defaultdict
from collections.abc import Sequence
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


def match_references(
    root: Path, series: Sequence[DicomSeries], segmentations: Sequence[SegmentationHeader], volumes: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], set[str]]:
    """Key of a series to its files of label maps, and the volumes among them.

    A segmentation belongs to the series that it refers to by series or by instances, or to the only series with its
    coordinate system. A volume of labels belongs to the one series with its grid in its folder or below, or below the
    parent folder. If there is only one series there, it belongs to that series, and reading it reports the fault.
    """
    usable = [one for one in series if one.geometry is not None]
    matched: dict[str, list[str]] = defaultdict(list)
    for header in segmentations:
        for one in _referred(header, usable):
            matched[one.key].append(header.file)
    taken: set[str] = set()
    for name in filter(_looks_like_labels, volumes):
        if owner := _on_the_grid_of(root, name, usable):
            matched[owner.key].append(name)
            taken.add(name)
    return {key: tuple(sorted(files)) for key, files in matched.items()}, taken


def _looks_like_labels(name: str) -> bool:
    """True if a volume is named like a label map: by the end of its own name, or by a folder above it."""
    *folders, file = name.split("/")
    if _LABEL_NAME.fullmatch(without_suffix(file, VOLUME_SUFFIXES)):
        return True
    return any(_LABEL_FOLDER.fullmatch(folder) for folder in folders)


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
