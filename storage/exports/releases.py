"""Release of files: written aside, read back, compared with the prediction, and only then renamed.

The comparison covers every voxel, and centroid (in patient coordinates) and volume of each structure. Pictures are not
read back.
"""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.errors import DamagedFileError
from medsam3_core.inference.predictions import VolumePrediction
from storage.exports.instance_overlays import DrawnSlice
from storage.exports.registry import CaseToWrite, ExportFormat, ReleaseError, Voxels, format_of_file
from storage.sources.formats.single import InputImage
from storage.store.atomic import replacing

_SHIFT_TOLERANCE_MM = 0.01
_VOLUME_TOLERANCE = 1e-4


class DamagedPredictionError(DamagedFileError):
    """The prediction in the store cannot be read; segmenting the case again restores it."""


@dataclass(frozen=True, slots=True)
class Released:
    """Path of a released file, its contested voxels, and the largest centroid shift in mm (or pixels)."""

    path: Path
    contested: int
    largest_shift: float


def release(case: CaseToWrite, form: ExportFormat, out: Path) -> Released:
    """Write one case below `out`; an older file of the same name is replaced.

    Raises:
        NothingDrawnError: If the prediction is empty and this format has no empty file.
        CaseDataError: If this format cannot hold this case; gives the reason.
        ReleaseError: If the file read back differs.
        DamagedPredictionError: If the prediction is missing or damaged.
        StoreError: If `out` cannot be written.
    """
    assert form.write is not None
    target = out / f"{case.case_id}{form.suffix}"
    with _naming_damage(case), replacing(target) as scratch:
        geometry = case.prediction.geometry()
        form.write(case, scratch)
        shift = 0.0
        if form.read is not None:
            shift = compare_masks(*case.content(form), geometry, *form.read(case, scratch), str(target))
    return Released(target, 0 if form.overlaps else case.label_map[1], shift)


def write_slice(drawn: DrawnSlice, target: Path) -> None:
    """Write one slice in the format of the file's suffix; an existing file is replaced.

    Raises:
        UsageError: If the suffix is unknown or the folder does not exist.
        StoreError: If the file cannot be written.
    """
    form = format_of_file(target)
    assert form.write_slice is not None
    with replacing(target) as scratch:
        form.write_slice(drawn, scratch)


def write_volume(image: InputImage, prediction: VolumePrediction, target: Path) -> int:
    """Write a volume in the format of the file's suffix; return the number of slices with objects.

    Raises:
        UsageError: If the suffix is unknown or of a slice format, or the folder does not exist.
        StoreError: If the file cannot be written.
    """
    form = format_of_file(target, volume=True)
    assert form.write_volume is not None
    with replacing(target) as scratch:
        return form.write_volume(image, prediction, scratch)


@contextmanager
def _naming_damage(case: CaseToWrite) -> Iterator[None]:
    try:
        yield
    except (DamagedFileError, zipfile.BadZipFile) as error:
        msg = f"the prediction of {case.case_id} in the store is damaged ({error.__cause__ or error}); {case.remedy}"
        raise DamagedPredictionError(msg) from error


def compare_masks(
    structures: Sequence[str],
    written: Voxels,
    geometry: VolumeGeometry,
    read: Voxels,
    read_geometry: VolumeGeometry,
    what: str,
) -> float:
    """Largest centroid shift in mm (or pixels).

    Raises:
        ReleaseError: If shape, a voxel, a centroid or a volume differs.
    """
    largest = 0.0
    for name in structures:
        mask, other = written(name), read(name)
        if other.shape != mask.shape:
            msg = f"{what}: {name!r} was read back incomplete; nothing was released"
            raise ReleaseError(msg)
        if differing := int(np.count_nonzero(mask != other)):
            msg = f"{what}: {name!r} was read back with {differing} other voxels; nothing was released"
            raise ReleaseError(msg)
        if not mask.any():
            continue
        shift = float(np.linalg.norm(_centroid(mask, geometry) - _centroid(other, read_geometry)))
        ratio = read_geometry.voxel_volume / geometry.voxel_volume
        if shift > _SHIFT_TOLERANCE_MM or abs(ratio - 1) > _VOLUME_TOLERANCE:
            msg = f"{what}: {name!r} lies {shift:.3f} mm away or has {ratio:.5f} of its volume; nothing was released"
            raise ReleaseError(msg)
        largest = max(largest, shift)
    return largest


def _centroid(mask: NDArray[Any], geometry: VolumeGeometry) -> NDArray[np.float64]:
    """Mean position of the voxels of a mask, in patient coordinates (RAS, mm)."""
    middle = np.array([hits.mean() for hits in np.nonzero(mask)] + [1.0])
    centroid: NDArray[np.float64] = (np.asarray(geometry.affine_zyx_to_ras_mm) @ middle)[:3]
    return centroid
