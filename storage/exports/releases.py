"""Clinical formats out: written aside, read back, compared with the prediction, and only then released.

Compared are every voxel, the centroid of each structure in patient coordinates, and its volume. A file that differs is
never given its final name.
"""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.cases import CaseSource
from medsam3_core.cases.geometry import LengthUnit, VolumeGeometry
from medsam3_core.errors import CaseDataError, DamagedFileError, Medsam3Error
from storage.cohorts.volumes import StoredVolume
from storage.exports.dicom_seg import write_segmentation
from storage.exports.label_maps import merge_structures, nifti_image
from storage.runs.predictions import StoredPrediction, open_prediction
from storage.sources.dicom.segmentations import read_segmentation
from storage.store.arrays import open_group
from storage.store.atomic import replacing
from storage.store.locations import local_copy

_SHIFT_TOLERANCE_MM = 0.01
_VOLUME_TOLERANCE = 1e-4

Masks = Mapping[str, NDArray[np.bool_]]


class ReleaseError(Medsam3Error):
    """What was read back is not what was written; nothing was released."""


class DamagedPredictionError(DamagedFileError):
    """The prediction in the store cannot be read; only segmenting the case again brings it back."""


class ReleaseForm(StrEnum):
    """What `medsam3 segment` writes."""

    NIFTI = "nifti"
    DICOM_SEG = "dicom-seg"
    ZARR = "zarr"


_SUFFIX = {ReleaseForm.NIFTI: ".nii.gz", ReleaseForm.DICOM_SEG: ".dcm", ReleaseForm.ZARR: ".ome.zarr"}


@dataclass(frozen=True, slots=True)
class Released:
    """A file that was released: where, contested voxels, largest shift of a centroid in mm (or pixels)."""

    path: Path
    contested: int
    largest_shift: float


@dataclass(frozen=True)
class ToRelease:
    """One case to write.

    Attributes:
        case_id: Names the file.
        prediction_file: Prediction in the store.
        volume: Its image in the store.
        structures: In order: values 1..n of a NIfTI label map, segments of a segmentation.
        texts: Text of each structure.
        weights: Name and version, for provenance.
        source: Root of the source, for DICOM.
        case: Files of the case in the source, for DICOM.
        anonymous: Leave the patient's name and birth date out of DICOM.
    """

    case_id: str
    prediction_file: Path
    volume: StoredVolume
    structures: tuple[str, ...]
    texts: Mapping[str, str]
    weights: str
    source: Path
    case: CaseSource | None
    anonymous: bool = False


def release(item: ToRelease, form: ReleaseForm, out: Path) -> Released:
    """Write one case below `out`; an older file of the same name is replaced.

    Raises:
        NothingDrawnError: If there is nothing to write and this format cannot say so.
        CaseDataError: If this format cannot hold this case; says why.
        ReleaseError: If what is read back differs.
        DamagedPredictionError: If the prediction is absent or damaged.
        StoreError: If `out` cannot be written.
    """
    target = out / f"{item.case_id}{_SUFFIX[form]}"
    write = {ReleaseForm.NIFTI: _nifti, ReleaseForm.DICOM_SEG: _dicom, ReleaseForm.ZARR: _zarr}[form]
    with _naming_damage(item), replacing(target) as scratch:
        prediction = open_prediction(item.prediction_file)
        written, geometry, read_back, contested = write(item, prediction, scratch)
        shift = compare_masks(written, prediction.geometry(), read_back, geometry, str(target))
    return Released(target, contested, shift)


@contextmanager
def _naming_damage(item: ToRelease) -> Iterator[None]:
    try:
        yield
    except (DamagedFileError, zipfile.BadZipFile) as error:
        msg = (
            f"the prediction of {item.case_id} in the store is damaged ({error.__cause__ or error}); "
            "run medsam3 segment again with --retry, which segments the case again"
        )
        raise DamagedPredictionError(msg) from error


def compare_masks(
    written: Masks, geometry: VolumeGeometry, read: Masks, read_geometry: VolumeGeometry, what: str
) -> float:
    """Largest shift of a centroid.

    Raises:
        ReleaseError: If a voxel, a centroid or a volume differs, or a structure is missing.
    """
    largest = 0.0
    for name, mask in written.items():
        other = read.get(name)
        if other is None or other.shape != mask.shape:
            msg = f"{what}: {name!r} was not read back whole; nothing was released"
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


def _centroid(mask: NDArray[np.bool_], geometry: VolumeGeometry) -> NDArray[np.float64]:
    """Mean place of the voxels of a mask, in patient coordinates (RAS, mm)."""
    middle = np.array([hits.mean() for hits in np.nonzero(mask)] + [1.0])
    place: NDArray[np.float64] = (np.asarray(geometry.affine_zyx_to_ras_mm) @ middle)[:3]
    return place


_Written = tuple[Masks, VolumeGeometry, Masks, int]


def _nifti(item: ToRelease, prediction: StoredPrediction, scratch: Path) -> _Written:
    values, contested = merge_structures(prediction, item.structures)
    nib.save(nifti_image(values, item.volume), scratch)
    stored: Any = nib.load(scratch)
    if not np.array_equal(stored.affine, np.asarray(item.volume.nifti_affine, dtype=np.float32).astype(np.float64)):
        msg = f"{scratch.name}: the affine {stored.affine.tolist()} is not that of the input; nothing was released"
        raise ReleaseError(msg)
    unit = prediction.geometry().unit
    expected = str(item.volume.nifti_unit) if unit is LengthUnit.MILLIMETRE else "unknown"
    if (found := stored.header.get_xyzt_units()[0]) != expected:
        msg = f"{scratch.name}: the unit {found} is not that of the input, {expected}; nothing was released"
        raise ReleaseError(msg)
    read = np.asanyarray(stored.dataobj).T
    numbered = list(enumerate(item.structures, start=1))
    in_place = item.volume.nifti_unit.to_millimetres(stored.affine)
    geometry = replace(VolumeGeometry.from_nifti(prediction.geometry().shape_zyx, in_place), unit=unit)
    written = {name: values == value for value, name in numbered}
    return written, geometry, {name: read == value for value, name in numbered}, contested


def _zarr(item: ToRelease, prediction: StoredPrediction, scratch: Path) -> _Written:
    """The prediction as a folder that any OME-Zarr reader opens: one label image per structure, which may overlap."""
    with local_copy(item.prediction_file) as file, zipfile.ZipFile(file) as archive:
        archive.extractall(scratch)
    copy = StoredPrediction(open_group(scratch))
    if any(not np.array_equal(copy.labels(name), prediction.labels(name)) for name in prediction.structures):
        msg = f"{scratch.name}: instances were read back differently; nothing was released"
        raise ReleaseError(msg)
    written = {name: prediction.labels(name) > 0 for name in prediction.structures}
    return written, copy.geometry(), {name: copy.labels(name) > 0 for name in copy.structures}, 0


def _dicom(item: ToRelease, prediction: StoredPrediction, scratch: Path) -> _Written:
    if item.case is None:
        msg = "its source files are gone or have changed since they were read; run the same command again"
        raise CaseDataError(msg)
    if item.case.extra.get("kind") != "dicom":
        msg = "the source is no DICOM series, so there is nothing that a DICOM segmentation could refer to; use nifti"
        raise CaseDataError(msg)
    masks = {name: prediction.labels(name) > 0 for name in item.structures}
    write_segmentation(scratch, item.source, item.case, masks, item.texts, item.weights, anonymous=item.anonymous)
    read = read_segmentation(scratch, prediction.geometry(), "written")
    return masks, prediction.geometry(), {name: read.mask(name) for name in masks}, 0
