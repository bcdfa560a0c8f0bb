"""Case volumes in the store: OME-Zarr 0.5 with image and references; a zip for one slice, a folder for volumes."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, MemoryStore

from medsam3_core.cases.cases import CaseVolume
from medsam3_core.cases.geometry import AffineUnit, VolumeGeometry
from medsam3_core.cases.structures import LabelEntry, LabelMap
from storage.store.arrays import level_factors, open_group, write_image_levels, write_label_levels, write_zip
from storage.store.atomic import replacing
from storage.store.ngff import NGFF_VERSION, geometry_from_attributes, image_attributes, reference_attributes


def write_case_volume(target: Path, case_id: str, volume: CaseVolume, case_digest: str = "") -> None:
    """Write image and references; the suffix of `target` decides between zip (`.ozx`) and folder.

    `case_id` names the image. `case_digest` is kept with the volume, for comparison with the case table.

    Raises:
        StoreError: If writing fails; nothing exists under the final name then.
    """
    attributes = image_attributes(case_id, volume, level_factors(volume.geometry.shape_zyx))
    if case_digest:
        attributes |= {"case_digest": case_digest}
    if target.suffix == ".ozx":
        content: dict[str, Buffer] = {}
        _fill(zarr.create_group(MemoryStore(content), attributes=attributes), volume)
        write_zip(content, target)
        return
    with replacing(target) as scratch:
        _fill(zarr.create_group(LocalStore(scratch), attributes=attributes), volume)


@dataclass(frozen=True)
class StoredVolume:
    """A case in the store, read lazily: one slice costs one chunk. `group` is the open root group."""

    group: zarr.Group
    geometry: VolumeGeometry

    @cached_property
    def _image(self) -> zarr.Array[Any]:
        array = self.group["0"]
        assert isinstance(array, zarr.Array)
        return array

    @property
    def case_digest(self) -> str:
        """Digest of the case; empty if it was written without one."""
        return str(self.group.attrs.get("case_digest", ""))

    @property
    def nifti_affine(self) -> NDArray[np.float64]:
        """The 4 x 4 affine of the source (index order x, y, z), else the one of the geometry."""
        stored: Any = self.group.attrs.get("nifti", {})
        return np.asarray(stored["affine"]) if stored else self.geometry.affine_nifti

    @property
    def nifti_unit(self) -> AffineUnit:
        """Unit of `nifti_affine`; for older volumes without it, derived from the geometry."""
        stored: Any = self.group.attrs.get("nifti", {})
        if "unit" in stored:
            return AffineUnit(stored["unit"])
        factor = np.linalg.norm(self.geometry.affine_nifti[:3, :3]) / np.linalg.norm(self.nifti_affine[:3, :3])
        return next((unit for unit in AffineUnit if np.isclose(factor, unit.millimetres)), AffineUnit.MILLIMETRE)

    @property
    def modality(self) -> str:
        """`CT`, `MR`, ...; empty if unknown."""
        return str(self.group.attrs.get("modality", ""))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored intensities."""
        return np.dtype(self._image.dtype)

    def slice(self, z: int) -> NDArray[Any]:
        """Stored intensities of slice z, shape (y, x) or (c, y, x)."""
        return np.asarray(self._image[..., z, :, :])

    def voxels(self) -> NDArray[Any]:
        """The whole image, shape (c,) z, y, x."""
        return np.asarray(self._image[...])

    @property
    def raters(self) -> tuple[str, ...]:
        """Raters with a reference, the primary one first; empty for cases without reference."""
        return tuple(self._reference_folders)

    @cached_property
    def _reference_folders(self) -> dict[str, str]:
        if "labels" not in self.group:
            return {}
        names: Any = self.group["labels"].attrs["ome"]
        return {str(self.group[f"labels/{name}"].attrs["rater"]): f"labels/{name}" for name in names["labels"]}

    def reference(self, rater: str) -> LabelMap:
        """Label map of one rater; `KeyError` if this rater has none."""
        folder = self._reference_folders[rater]
        attributes: Any = self.group[folder].attrs
        entries = tuple(
            LabelEntry(item["label-value"], meaning["structure"], meaning["instance"])
            for item in attributes["ome"]["image-label"].get("properties", ())
            for meaning in (item, *item.get("also", ()))
        )
        voxels: Any = self.group[f"{folder}/0"]
        return LabelMap(np.asarray(voxels[...]), self.geometry, entries, rater)


def open_case_volume(path: Path) -> StoredVolume:
    """Open a case for reading.

    Raises:
        DamagedFileError: If it is absent or damaged; names it.
    """
    group = open_group(path)
    image: Any = group["0"]
    depth, height, width = image.shape[-3:]
    return StoredVolume(group, geometry_from_attributes(dict(group.attrs), (depth, height, width)))


def _fill(root: zarr.Group, volume: CaseVolume) -> None:
    factors = level_factors(volume.geometry.shape_zyx)
    write_image_levels(root, volume.voxels, factors)
    if not volume.references:
        return
    names = ["reference", *(f"reference-{index}" for index in range(2, len(volume.references) + 1))]
    labels = root.create_group("labels", attributes={"ome": {"version": NGFF_VERSION, "labels": names}})
    for name, reference in zip(names, volume.references, strict=True):
        group = labels.create_group(name, attributes=reference_attributes(reference, factors))
        write_label_levels(group, reference.voxels, factors)
