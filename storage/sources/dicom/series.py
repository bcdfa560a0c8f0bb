"""Group headers into series, by UID or, if UIDs are empty, by geometry, and verify that each is one volume."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from posixpath import commonpath, dirname

import numpy as np

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.series_geometry import (
    ProvenSeries,
    SeriesFault,
    SeriesRejectedError,
    orientation_key,
    prove_series,
)
from storage.sources.dicom.headers import DicomHeader, HeaderKind

_TOMOGRAPHIC_CLASSES = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{suffix}" for suffix in ("2", "2.1", "2.2", "4", "4.1", "4.4", "128", "128.1", "130")
)
_TOMOGRAPHIC_MODALITIES = frozenset({"CT", "MR", "PT"})
_MIN_SERIES_SLICES = 4
"""Fewer slices of another geometry are strays in a series without UID, not a separate series."""


@dataclass(frozen=True, slots=True)
class DicomSeries:
    """Files that are one case.

    Attributes:
        key: Names it in the source: its folder, and a suffix if a folder has several. Holds no name of a patient.
        headers: In the order of the volume if that is verified.
        geometry: Grid of the volume; None for images without position and for rejected series.
        reason: Reason of a rejection, or None.
    """

    key: str
    headers: tuple[DicomHeader, ...]
    geometry: VolumeGeometry | None = None
    reason: str | None = None


def find_series(headers: Iterable[DicomHeader]) -> list[DicomSeries]:
    """All series among image headers and faulty files, sorted by key."""
    grouped: dict[tuple[str, ...], list[DicomHeader]] = defaultdict(list)
    for header in headers:
        grouped[_group_key(header)].append(header)
    series: list[DicomSeries] = []
    for key, members in grouped.items():
        parts = _by_geometry(members) if key[0] == "place" else [members]
        split = [phase for part in parts for phase in _by_phase(part)]
        series += [_proved(_series_key(key, one, len(split), len(grouped)), one) for one in split]
    return sorted(series, key=lambda one: one.key)


def prove_headers(headers: Sequence[DicomHeader]) -> ProvenSeries:
    """Verify that the slices (or frames) of these files are one volume.

    Raises:
        SeriesRejectedError: If a file is faulty or the slices are not one volume; names fault and file.
    """
    for header in headers:
        if header.fault is not None:
            raise SeriesRejectedError.of(header.fault, header.detail)
        if len(header.places) > header.frames:
            msg = f"{header.file} has {header.frames} frames but positions for {len(header.places)}"
            raise SeriesRejectedError.of(SeriesFault.ODD_HEADER, f"{msg}; export it again")
        if header.pixels.is_colour != headers[0].pixels.is_colour:
            colour, grey = (header, headers[0]) if header.pixels.is_colour else (headers[0], header)
            msg = f"{colour.file} is in colour ({colour.pixels.photometric}) and {grey.file} is not; split the series"
            raise SeriesRejectedError.of(SeriesFault.MIXED_COLOUR, msg)
    if headers[0].frames > len(headers[0].places):
        msg = f"{headers[0].file} has {headers[0].frames} frames without positions; split it into images"
        raise SeriesRejectedError.of(SeriesFault.NO_POSITION, msg)
    return prove_series([place for header in headers for place in header.places])


def is_flat(header: DicomHeader) -> bool:
    """True for a single image such as a radiograph: not tomographic and without position."""
    place = header.places[0] if header.places else None
    if place is None or header.frames > 1 or (place.position is not None and place.orientation is not None):
        return False
    if header.sop_class in _TOMOGRAPHIC_CLASSES:
        return False
    return header.modality not in _TOMOGRAPHIC_MODALITIES or header.sop_class.startswith("1.2.840.10008.5.1.4.1.1.7")


def _group_key(header: DicomHeader) -> tuple[str, ...]:
    if header.kind is not HeaderKind.IMAGE and not header.series_uid:
        return ("file", header.file)
    if header.frames > 1 or (header.fault is None and is_flat(header)):
        return ("file", header.file)
    if header.series_uid:
        return ("uid", header.series_uid)
    folder = dirname(header.file)
    return ("place", folder, header.study_uid, header.modality, header.frame_of_reference, header.series_number)


def _by_geometry(members: list[DicomHeader]) -> list[list[DicomHeader]]:
    """Split series without UID into groups of equal size, spacing, orientation and in-plane origin.

    A few slices that differ stay with the others as a fault of that series, which the verification reports.
    """
    parts = [members]
    for measure in (_grid_key, _origin_key):
        parts = [piece for part in parts for piece in _split_by(part, measure)]
    return parts


def _split_by(members: list[DicomHeader], measure: Callable[[DicomHeader], object]) -> list[list[DicomHeader]]:
    groups: dict[object, list[DicomHeader]] = defaultdict(list)
    for header in members:
        groups[measure(header)].append(header)
    large = [group for group in groups.values() if len(group) >= _MIN_SERIES_SLICES]
    if len(large) < 2:
        return [members]
    small = [header for group in groups.values() if len(group) < _MIN_SERIES_SLICES for header in group]
    biggest = max(large, key=len)
    return [group + small if group is biggest else group for group in large]


def _grid_key(header: DicomHeader) -> object:
    place = header.places[0] if header.places else None
    if place is None:
        return None
    if not np.isfinite((*(place.spacing_yx or ()), *(place.orientation or ()))).all():
        return None
    spacing = tuple(round(value, 3) for value in place.spacing_yx or ())
    return place.shape_yx, spacing, orientation_key(place.orientation or ())


def _origin_key(header: DicomHeader) -> object:
    """Origin of the slice within its own plane: equal for all slices of a series that is not sheared."""
    place = header.places[0] if header.places else None
    if place is None or place.position is None or place.orientation is None or len(place.orientation) != 6:
        return None
    if not np.isfinite((*place.position, *place.orientation)).all():
        return None
    along = [sum(a * b for a, b in zip(place.position, place.orientation[i : i + 3], strict=True)) for i in (0, 3)]
    return tuple(round(value) for value in along)


def _by_phase(members: list[DicomHeader]) -> list[list[DicomHeader]]:
    """Split time points, echoes and b-values of one series if each is a complete volume at the same places."""
    for part in range(max((len(header.phase) for header in members), default=0)):
        groups: dict[str, list[DicomHeader]] = defaultdict(list)
        for header in members:
            groups[header.phase[part] if len(header.phase) > part else ""].append(header)
        places = [sorted(_positions(group)) for group in groups.values()]
        if len(groups) > 1 and len(places[0]) > 1 and all(item == places[0] for item in places):
            return [phase for group in groups.values() for phase in _by_phase(group)]
    return [members]


def _positions(headers: Iterable[DicomHeader]) -> list[tuple[float, ...]]:
    return [tuple(round(x, 2) for x in place.position or ()) for header in headers for place in header.places]


def _series_key(key: tuple[str, ...], members: Sequence[DicomHeader], pieces: int, groups: int) -> str:
    shown = [_shown(header) for header in members]
    if key[0] == "file":
        name = shown[0]
        return name[: -len(".dcm")] if name.lower().endswith(".dcm") else name
    folder = commonpath([dirname(name) for name in shown]) if len(shown) > 1 else dirname(shown[0])
    if key[0] == "place" and pieces == 1 and folder:
        return folder
    identity = [*key[1:], members[0].phase if pieces > 1 else "", _grid_key(members[0]) if pieces > 1 else ""]
    if key[0] == "place" and pieces > 1:
        identity.append(_origin_key(members[0]))
    series = f"series-{hashlib.sha256(repr(identity).encode()).hexdigest()[:6]}"
    return f"{folder}/{series}" if folder else series


def _shown(header: DicomHeader) -> str:
    """Path without the name of the patient."""
    replaced = dict(header.hidden)
    return "/".join(replaced.get(part, part) for part in header.file.split("/"))


def _proved(key: str, members: Sequence[DicomHeader]) -> DicomSeries:
    members = sorted(members, key=lambda header: header.file)
    first = members[0]
    if first.fault is None and first.kind is not HeaderKind.IMAGE:
        reason = SeriesRejectedError.of(
            SeriesFault.NO_PIXELS, f"{first.file} is an object of class {first.sop_class or 'unknown'} without pixels"
        )
        return DicomSeries(key, tuple(members), reason=str(reason))
    if len(members) == 1 and first.fault is None and is_flat(first):
        return DicomSeries(key, tuple(members))
    try:
        proven = prove_headers(members)
    except SeriesRejectedError as error:
        return DicomSeries(key, tuple(members), reason=str(error))
    ordered = [members[index] for index in proven.order] if len(members) > 1 else members
    return DicomSeries(key, tuple(ordered), proven.geometry)
