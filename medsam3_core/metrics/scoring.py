"""Scoring of one structure of one case: reference and prediction in, one row of metrics out.

Undefined values are None, never NaN or infinity. Metrics and their values for empty masks are listed in
`medsam3_core.metrics.table`.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.geometry import LengthUnit, VolumeGeometry
from medsam3_core.cases.structures import Structure
from medsam3_core.errors import CaseDataError
from medsam3_core.metrics.centreline import cl_dice
from medsam3_core.metrics.instances import InstanceCounts, match_instances
from medsam3_core.metrics.mask_pairs import MaskPair, require_masks
from medsam3_core.metrics.nearest import pair_distances
from medsam3_core.metrics.overlap import ConfusionCounts, count_pair
from medsam3_core.metrics.table import METRICS, MeasuredPair

_MM3_PER_ML = 1000.0


class EmptyMask(StrEnum):
    """The masks without voxels."""

    NONE = "none"
    BOTH = "both"
    REFERENCE = "reference"
    PREDICTION = "prediction"


class VolumeUnit(StrEnum):
    """Unit of the size of a mask: area for single slices, counts if the spacing is unknown."""

    MILLILITRE = "ml"
    SQUARE_MILLIMETRE = "mm2"
    PIXEL = "px"
    VOXEL = "voxel"


@dataclass(frozen=True, slots=True)
class StructureScore:
    """The columns of one row of the table `scores` that come from the masks.

    Attributes:
        empty: Masks without voxels.
        metrics: Value of every metric by its column; None if it is undefined.
        nsd_tolerance: In `distance_unit`.
        distance_unit: mm if the spacing is known, else px.
        reference_volume: Size of the reference in `volume_unit`.
        prediction_volume: Size of the prediction in `volume_unit`.
        volume_error: (prediction - reference) / reference; None if the reference is empty.
        volume_unit: ml or voxel for volumes, mm2 or px for single slices.
        instances_reference: Instances of the reference; None unless the structure comes in instances and both instance
            maps are given.
        instances_prediction: Instances of the prediction.
        counts: Voxel counts, each a column; formulas of other protocols are computed from them.
    """

    empty: EmptyMask
    metrics: Mapping[str, float | None]
    nsd_tolerance: float
    distance_unit: LengthUnit
    reference_volume: float
    prediction_volume: float
    volume_error: float | None
    volume_unit: VolumeUnit
    instances_reference: int | None
    instances_prediction: int | None
    counts: ConfusionCounts

    def as_columns(self) -> dict[str, Any]:
        """Values by column name, enumerations as their text."""
        columns = asdict(self)
        columns |= columns.pop("metrics") | columns.pop("counts")
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in columns.items()}


def score_structure(
    reference: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    geometry: VolumeGeometry,
    *,
    structure: Structure,
    reference_instances: NDArray[Any] | None = None,
    prediction_instances: NDArray[Any] | None = None,
) -> StructureScore:
    """Score one structure of one case as a whole volume.

    Args:
        reference: Boolean mask, shape (z, y, x) of the geometry; all False if the structure is absent.
        prediction: Boolean mask of the same shape; all False if nothing was found.
        geometry: Grid of both masks; gives spacing and units. A single slice is scored in its plane.
        structure: Gives the NSD tolerance, and if clDice and instance metrics apply.
        reference_instances: Integer label map of instances 1..n of the same shape, or None if the reference has no
            instances; read only if the structure comes in instances.
        prediction_instances: The same for the prediction.

    Raises:
        CaseDataError: If a mask is not boolean, an instance map not of integers, or a shape is not the geometry's.
    """
    require_masks(reference, prediction)
    if reference.shape != geometry.shape_zyx:
        msg = f"masks of {structure.name!r} have shape {reference.shape}, their geometry {geometry.shape_zyx}"
        raise CaseDataError(msg)
    pair = MaskPair.of(reference, prediction)
    counts = count_pair(pair)
    scale, volume_unit = volume_scale(geometry)
    matches = _match_instances(structure, geometry.shape_zyx, reference_instances, prediction_instances)
    measured = MeasuredPair(
        counts,
        pair_distances(pair, geometry.spacing_zyx),
        structure.nsd_tolerance,
        cl_dice(reference, prediction) if structure.tubular else math.nan,
        matches,
    )
    values = {name: metric.value(measured) for name, metric in METRICS.items()}
    difference = counts.prediction - counts.reference
    return StructureScore(
        empty=_empty_mask(counts),
        metrics={name: value if math.isfinite(value) else None for name, value in values.items()},
        nsd_tolerance=structure.nsd_tolerance,
        distance_unit=geometry.unit,
        reference_volume=counts.reference * scale,
        prediction_volume=counts.prediction * scale,
        volume_error=difference / counts.reference if counts.reference else None,
        volume_unit=volume_unit,
        instances_reference=None if matches is None else matches.reference,
        instances_prediction=None if matches is None else matches.prediction,
        counts=counts,
    )


def _empty_mask(counts: ConfusionCounts) -> EmptyMask:
    match counts.reference == 0, counts.prediction == 0:
        case True, True:
            return EmptyMask.BOTH
        case True, False:
            return EmptyMask.REFERENCE
        case False, True:
            return EmptyMask.PREDICTION
        case _:
            return EmptyMask.NONE


def volume_scale(geometry: VolumeGeometry) -> tuple[float, VolumeUnit]:
    """Size of a voxel in the unit of the table, and that unit."""
    if geometry.unit is LengthUnit.PIXEL:
        return geometry.voxel_volume, VolumeUnit.PIXEL if geometry.is_2d else VolumeUnit.VOXEL
    if geometry.is_2d:
        return geometry.voxel_volume, VolumeUnit.SQUARE_MILLIMETRE
    return geometry.voxel_volume / _MM3_PER_ML, VolumeUnit.MILLILITRE


def _match_instances(
    structure: Structure, shape: tuple[int, int, int], reference: NDArray[Any] | None, prediction: NDArray[Any] | None
) -> InstanceCounts | None:
    if not structure.instances or reference is None or prediction is None:
        return None
    for name, label_map in (("reference", reference), ("prediction", prediction)):
        if label_map.shape != shape:
            msg = f"{name} instances of {structure.name!r} have shape {label_map.shape}, their geometry {shape}"
            raise CaseDataError(msg)
    return match_instances(reference, prediction)


def mean_confidence(labels: NDArray[np.uint16], scores: NDArray[np.float32]) -> float | None:
    """Mean score over the predicted voxels; None for an empty prediction.

    Args:
        labels: Label volume (z, y, x), 0 background, instances 1..n.
        scores: Score of instance 1..n, shape (n,).
    """
    voxels = np.bincount(labels.reshape(-1), minlength=len(scores) + 1)[1 : len(scores) + 1]
    return float((scores * voxels).sum() / voxels.sum()) if voxels.sum() else None
