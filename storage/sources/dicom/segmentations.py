"""DICOM segmentations as references: their series, structures and voxels.

A segmentation stores only the frames that are not empty, in any order, often in another order than its series; each
frame is placed on the grid of the series by its own position.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medsam3_core.cases.alignment import place_on
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.structures import LabelEntry, LabelMap, Structure
from medsam3_core.errors import CaseDataError, LabelValueError, ShapeMismatchError, UnreadableFileError
from storage.sources.dicom.parsing import parse_without_pixels
from storage.sources.listing.labels import structure_slug

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, slots=True)
class SegmentationHeader:
    """Attributes of a segmentation that are known before its pixels are read.

    Attributes:
        file: Path relative to the source.
        frame_of_reference: Its coordinate system.
        series_uids: Series that it refers to.
        instance_uids: Objects that it refers to.
        structures: One per segment, in order; names slugged, texts as written.
    """

    file: str
    frame_of_reference: str
    series_uids: frozenset[str]
    instance_uids: frozenset[str]
    structures: tuple[Structure, ...]


def read_segmentation_header(root: Path, file: str) -> SegmentationHeader | None:
    """The header, or None if the file cannot be read or names no segment."""
    try:
        data = parse_without_pixels(root / file)
        structures = tuple(Structure(name, text) for _, name, text in _segments(data))
        referred = list(data.get("ReferencedSeriesSequence") or ())
        series = frozenset(str(item.get("SeriesInstanceUID", "")) for item in referred)
        instances = {
            str(instance.get("ReferencedSOPInstanceUID", ""))
            for item in referred
            for instance in item.get("ReferencedInstanceSequence") or ()
        }
        frame_of_reference = str(data.get("FrameOfReferenceUID", ""))
    except Exception:  # noqa: BLE001 - pydicom raises any error on broken files
        return None
    return SegmentationHeader(file, frame_of_reference, series - {""}, frozenset(instances) - {""}, structures)


def read_segmentation(path: Path, geometry: VolumeGeometry, rater: str) -> LabelMap:
    """Read a segmentation on the grid of its series; structures may overlap.

    Raises:
        CaseDataError: If it cannot be read, is fractional, or does not lie on the grid of the series.
    """
    try:
        data = pydicom.dcmread(path)
        pixels = np.atleast_3d(data.pixel_array) if int(data.get("NumberOfFrames", 1)) > 1 else data.pixel_array[None]
        segments = _segments(data)
        frames = list(_frames(data))
    except Exception as error:
        msg = f"{path} cannot be read as a DICOM segmentation ({type(error).__name__}: {error}); export it again"
        raise UnreadableFileError(msg) from error
    kind = str(data.get("SegmentationType", "BINARY"))
    if kind == "FRACTIONAL" and not set(np.unique(pixels).tolist()) <= {0, int(data.MaximumFractionalValue)}:
        msg = f"{path} is a fractional segmentation; threshold it and export it as BINARY"
        raise LabelValueError(msg)
    combined = _Combined(geometry.shape_zyx)
    try:
        for number, name, _ in segments:
            combined.add(name, _mask(number, kind, pixels, frames, geometry))
    except CaseDataError as error:
        msg = f"{path}: {error}"
        raise type(error)(msg) from error
    return LabelMap(combined.voxels, geometry, combined.entries(), rater)


def _segments(data: Dataset) -> list[tuple[int, str, str]]:
    """Number, structure name and text of each segment except the background of a label map."""
    found = []
    for segment in data.SegmentSequence:
        label = str(segment.get("SegmentLabel", "")).strip() or f"segment {segment.SegmentNumber}"
        if int(segment.SegmentNumber) > 0:
            found.append((int(segment.SegmentNumber), structure_slug(label), label.replace("_", " ").lower()))
    return found


@dataclass(frozen=True, eq=False)
class _Frame:
    segment: int
    position: NDArray[np.float64]
    cosines: NDArray[np.float64]
    spacing: tuple[float, float]


def _frames(data: Dataset) -> Iterator[_Frame]:
    shared = data.SharedFunctionalGroupsSequence[0]
    for groups in data.PerFrameFunctionalGroupsSequence:

        def group(name: str, groups: Dataset = groups) -> Any:
            return (groups if name in groups else shared)[name].value[0]

        identification = groups.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        rows, columns = group("PixelMeasuresSequence").PixelSpacing
        yield _Frame(
            int(identification[0].ReferencedSegmentNumber) if identification else 0,
            np.asarray(group("PlanePositionSequence").ImagePositionPatient, dtype=np.float64),
            np.asarray(group("PlaneOrientationSequence").ImageOrientationPatient, dtype=np.float64).reshape(2, 3),
            (float(rows), float(columns)),
        )


def _mask(
    number: int, kind: str, pixels: NDArray[Any], frames: list[_Frame], geometry: VolumeGeometry
) -> NDArray[np.bool_]:
    mask = np.zeros(geometry.shape_zyx, dtype=bool)
    for plane, frame in zip(pixels, frames, strict=True):
        if kind != "LABELMAP" and frame.segment != number:
            continue
        drawn = plane == number if kind == "LABELMAP" else plane > 0
        if drawn.any():
            mask |= place_on(drawn[None].astype(np.uint8), _plane_geometry(frame, drawn.shape, geometry), geometry) > 0
    return mask


def _plane_geometry(frame: _Frame, shape: tuple[int, int], geometry: VolumeGeometry) -> VolumeGeometry:
    """One frame as a volume of one slice, with the slice step of the series along its normal."""
    rows, columns = _LPS_TO_RAS @ frame.cosines[1], _LPS_TO_RAS @ frame.cosines[0]
    normal = np.cross(columns, rows)
    steps = np.asarray(geometry.affine_zyx_to_ras_mm)[:3, :3]
    along = int(np.abs(normal @ (steps / np.linalg.norm(steps, axis=0))).argmax())
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = columns * frame.spacing[1], rows * frame.spacing[0]
    affine[:3, 2], affine[:3, 3] = steps[:, along], _LPS_TO_RAS @ frame.position
    if geometry.is_2d and along != 0:
        msg = "a frame is not parallel to the only slice of the image; export it again"
        raise ShapeMismatchError(msg)
    return VolumeGeometry.from_nifti((1, *shape), affine)


class _Combined:
    """Masks that may overlap as one label map: a value for every set of structures that share voxels."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.voxels: NDArray[Any] = np.zeros(shape, dtype=np.uint16)
        self._meanings: list[tuple[str, ...]] = [()]

    def add(self, structure: str, mask: NDArray[np.bool_]) -> None:
        for value in np.unique(self.voxels[mask]).tolist():
            self._meanings.append((*self._meanings[value], structure))
            self.voxels[mask & (self.voxels == value)] = len(self._meanings) - 1

    def entries(self) -> tuple[LabelEntry, ...]:
        return tuple(
            LabelEntry(value, structure) for value, names in enumerate(self._meanings) for structure in names if value
        )
