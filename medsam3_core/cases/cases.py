"""Cases: the unit of work and of scoring, before and after it is read."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.findings import FindingKind
from medsam3_core.cases.geometry import AffineUnit, VolumeGeometry
from medsam3_core.cases.recipes import Recipe, case_digest
from medsam3_core.cases.structures import LabelMap
from medsam3_core.digests import digest_array, digest_json
from medsam3_core.errors import CaseDataError


class CaseStatus(StrEnum):
    """Outcomes of a case in a cohort or a run; every planned case has exactly one."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    SCORED = "scored"
    SEGMENTED = "segmented"
    FAILED = "failed"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class CaseSource:
    """A case as a reader lists it, before any voxel is read.

    Attributes:
        case_id: Unique in the cohort, a slug, never a path.
        patient_id: Cluster for statistics; the case_id if the patient is unknown.
        split: `train`, `test`, ... or None.
        image: Image files, in order, relative to the source folder (or what the layout uses instead).
        references: Rater to reference files, relative to the source folder; empty for cases without reference.
        extra: Further values that the layout needs to read it, JSON values only.
        reject_reason: Reason for which the listing already rejects the case (no mask, duplicate id), or None.
        seen_by: Public weights that were trained on this case.
        reject_kind: Kind of that finding.
    """

    case_id: str
    patient_id: str
    split: str | None
    image: tuple[str, ...]
    references: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    reject_reason: str | None = None
    seen_by: tuple[str, ...] = ()
    reject_kind: FindingKind = FindingKind.REJECTED


@dataclass(frozen=True, eq=False)
class CaseVolume:
    """Image, geometry and references of a case, all in file order.

    Attributes:
        voxels: Shape (z, y, x) or (c, z, y, x), finite numbers.
        geometry: Shape and position; equal to that of every reference.
        references: One label map per rater, the first is the primary one.
        modality: As the recipe or the file says.
        nifti_affine: The 4 x 4 affine exactly as the source gives it (index order x, y, z), or None without one.
        attributes: Facts about the source that are kept with the volume (JSON values).
        nifti_unit: Unit of `nifti_affine`; the geometry is always in millimetres.
    """

    voxels: NDArray[Any]
    geometry: VolumeGeometry
    references: tuple[LabelMap, ...] = ()
    modality: str = ""
    nifti_affine: NDArray[np.float64] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    nifti_unit: AffineUnit = AffineUnit.MILLIMETRE

    def __post_init__(self) -> None:
        if self.voxels.ndim not in (3, 4) or self.voxels.shape[-3:] != self.geometry.shape_zyx:
            msg = f"image has shape {self.voxels.shape}; (c,) z, y, x with {self.geometry.shape_zyx} is expected"
            raise CaseDataError(msg)
        if np.issubdtype(self.voxels.dtype, np.floating) and not np.isfinite(self.voxels).all():
            bad = int((~np.isfinite(self.voxels)).sum())
            msg = f"image holds {bad} NaN or infinite voxels; re-export it or mask them out"
            raise CaseDataError(msg)
        for reference in self.references:
            if not reference.geometry.matches(self.geometry):
                msg = (
                    f"reference of {reference.rater!r} does not match the geometry of its image: shape "
                    f"{reference.geometry.shape_zyx} affine {reference.geometry.affine_zyx_to_ras_mm}, image "
                    f"{self.geometry.shape_zyx} {self.geometry.affine_zyx_to_ras_mm}; resample it onto the image"
                )
                raise CaseDataError(msg)

    @cached_property
    def voxels_digest(self) -> str:
        """SHA-256 of the image alone, 64 hex digits."""
        return digest_array(self.voxels)

    def digest(self, recipe: Recipe) -> str:
        """`case_digest`: image bytes and affine, reference bytes and meanings, and the recipe's part."""
        image = digest_json([self.voxels_digest, self.geometry.affine_zyx_to_ras_mm, self.geometry.unit])
        references = tuple(
            digest_json(
                [item.rater, digest_array(item.voxels), [(e.value, e.structure, e.instance) for e in item.entries]]
            )
            for item in self.references
        )
        return case_digest(image, references, recipe)


def slug_case_id(relative_path: str) -> str:
    """Slug of a path relative to its source: letters, digits and `_ . -`, with 6 hash characters if that changed it.

    The hash keeps paths with equal slugs apart. The slug starts with a letter or digit, has 1 to 100 characters and is
    always a valid name for `storage.store.layout`.
    """
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", relative_path).lstrip("._-")[:93].rstrip(".-") or "case"
    if slug == relative_path:
        return slug
    return f"{slug}-{hashlib.sha256(relative_path.encode()).hexdigest()[:6]}"
