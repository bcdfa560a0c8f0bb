"""NIfTI label maps with exactly the affine of the source: one value per voxel."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.geometry import AffineUnit, LengthUnit, VolumeGeometry
from medsam3_core.inference.predictions import VolumePrediction
from storage.exports.instance_overlays import DrawnSlice
from storage.exports.label_maps import merge_objects, numbered_instances
from storage.exports.registry import CaseToWrite, ExportCommand, ExportFormat, ReleaseError, Voxels
from storage.sources.formats.single import InputImage


def nifti_image(values: NDArray[Any], affine: NDArray[np.float64], unit: AffineUnit | None) -> nib.Nifti1Image:
    """Array (z, y, x) in NIfTI's order (x, y, z); the affine as sform and, unless it shears, as qform.

    `affine` has the index order (x, y, z); its `unit` is None for images without physical size.
    """
    image = nib.Nifti1Image(np.ascontiguousarray(values.transpose(2, 1, 0)), affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    tolerance = 1e-3 / (unit or AffineUnit.MILLIMETRE).millimetres
    if not np.allclose(image.get_qform(), affine, atol=tolerance):  # a qform cannot shear
        image.header["qform_code"] = 0
    if unit is not None:
        image.header.set_xyzt_units(xyz=str(unit))
    return image


def save_in_place(values: NDArray[Any], case: CaseToWrite, file: Path) -> None:
    """Write voxels (z, y, x) of a case with affine and unit of its source."""
    nib.save(nifti_image(values, case.volume.nifti_affine, _unit(case)), file)


def load_in_place(case: CaseToWrite, file: Path) -> tuple[NDArray[Any], VolumeGeometry]:
    """Voxels (z, y, x) and geometry of a file that `save_in_place` wrote.

    Raises:
        ReleaseError: If affine or unit differ from the source.
    """
    stored: Any = nib.load(file)
    if not np.array_equal(stored.affine, np.asarray(case.volume.nifti_affine, dtype=np.float32).astype(np.float64)):
        msg = f"{file.name}: the affine {stored.affine.tolist()} is not that of the input; nothing was released"
        raise ReleaseError(msg)
    expected = str(_unit(case) or "unknown")
    if (found := stored.header.get_xyzt_units()[0]) != expected:
        msg = f"{file.name}: the unit {found} is not that of the input, {expected}; nothing was released"
        raise ReleaseError(msg)
    geometry = case.prediction.geometry()
    in_place = case.volume.nifti_unit.to_millimetres(stored.affine)
    read = replace(VolumeGeometry.from_nifti(geometry.shape_zyx, in_place), unit=geometry.unit)
    return np.asanyarray(stored.dataobj).T, read


def _unit(case: CaseToWrite) -> AffineUnit | None:
    return case.volume.nifti_unit if case.volume.geometry.unit is LengthUnit.MILLIMETRE else None


def _write(case: CaseToWrite, scratch: Path) -> None:
    save_in_place(case.label_map[0], case, scratch)


def _read(case: CaseToWrite, scratch: Path) -> tuple[Voxels, VolumeGeometry]:
    values, read = load_in_place(case, scratch)
    return lambda name: values == case.structures.index(name) + 1, read


def _write_slice(drawn: DrawnSlice, scratch: Path) -> None:
    labels = numbered_instances(drawn.instances)
    volume = np.zeros(drawn.image.geometry.shape_zyx, dtype=labels.dtype)
    volume[drawn.z] = labels
    _save_image(drawn.image, volume, scratch)


def _write_volume(image: InputImage, prediction: VolumePrediction, scratch: Path) -> int:
    volume = merge_objects(prediction, image.geometry.shape_zyx)
    _save_image(image, volume, scratch)
    return int(volume.any(axis=(1, 2)).sum())


def _save_image(image: InputImage, labels: NDArray[Any], scratch: Path) -> None:
    """Pictures get an identity affine without a unit."""
    affine, unit = (np.eye(4), None) if image.affine is None else (image.affine, image.unit)
    nib.save(nifti_image(labels, affine, unit), scratch)


FORMAT = ExportFormat(
    name="nifti",
    suffix=".nii.gz",
    help="label map with exactly the affine of the input",
    commands=frozenset(ExportCommand),
    overlaps=False,
    write=_write,
    read=_read,
    write_slice=_write_slice,
    write_volume=_write_volume,
)
