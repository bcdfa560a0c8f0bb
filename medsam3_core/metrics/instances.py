"""Instance metrics of countable structures (nuclei, polyps, lesions)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.errors import CaseDataError

_MAX_VALUE = 2**31 - 1  # two values are packed into one 64-bit code


@dataclass(frozen=True, slots=True)
class InstanceCounts:
    """Numbers of instances of a structure and of matched pairs.

    Attributes:
        reference: Instances of the reference.
        prediction: Instances of the prediction.
        matched: Pairs with IoU above 0.5.
        matched_iou: Sum of the IoU of those pairs.
    """

    reference: int
    prediction: int
    matched: int
    matched_iou: float


def match_instances(reference: NDArray[Any], prediction: NDArray[Any]) -> InstanceCounts:
    """Pair instances whose IoU is above 0.5 (Kirillov et al., CVPR 2019).

    Above one half no instance can have two partners, so no assignment problem arises. Only pairs that overlap are
    stored. A label value without voxels is not an instance.

    Args:
        reference: Integer label map of instances, 0 is background, any shape.
        prediction: Integer label map of the same shape; its values need not correspond to those of the reference.

    Raises:
        CaseDataError: If the shapes differ, a map is not of integers or holds values outside 0..2**31 - 1.
    """
    if reference.shape != prediction.shape:
        msg = f"reference instances have shape {reference.shape}, prediction {prediction.shape}; use the same grid"
        raise CaseDataError(msg)
    for name, label_map in (("reference", reference), ("prediction", prediction)):
        _require_instances(name, label_map)
    rows, columns, voxels = _contingency(reference, prediction)
    row_area = np.bincount(rows, weights=voxels, minlength=1)
    column_area = np.bincount(columns, weights=voxels, minlength=1)
    pairs = (rows > 0) & (columns > 0)
    intersection = voxels[pairs]
    union = row_area[rows[pairs]] + column_area[columns[pairs]] - intersection
    matched = 2 * intersection > union
    return InstanceCounts(
        reference=int(np.count_nonzero(row_area[1:])),
        prediction=int(np.count_nonzero(column_area[1:])),
        matched=int(np.count_nonzero(matched)),
        matched_iou=float((intersection[matched] / union[matched]).sum()),
    )


def instance_precision(counts: InstanceCounts) -> float:
    """Share of predicted instances with a match; NaN without any instance, 0.0 if one side has none."""
    return _share(counts.matched, counts.prediction, counts)


def instance_recall(counts: InstanceCounts) -> float:
    """Share of reference instances that were found; NaN without any instance, 0.0 if one side has none."""
    return _share(counts.matched, counts.reference, counts)


def instance_f1(counts: InstanceCounts) -> float:
    """Harmonic mean of instance precision and recall; NaN without any instance, 0.0 if one side has none."""
    return _share(counts.matched, (counts.reference + counts.prediction) / 2, counts)


def panoptic_quality(counts: InstanceCounts) -> float:
    """F1 of the instances times the mean IoU of the matched ones (PQ, Kirillov et al., CVPR 2019), in [0, 1].

    NaN without any instance, 0.0 if one side has none.
    """
    return _share(counts.matched_iou, (counts.reference + counts.prediction) / 2, counts)


def _share(part: float, whole: float, counts: InstanceCounts) -> float:
    if counts.reference == 0 and counts.prediction == 0:
        return float("nan")
    return part / whole if whole else 0.0


def _require_instances(name: str, label_map: NDArray[Any]) -> None:
    if not np.issubdtype(label_map.dtype, np.integer):
        msg = f"{name} instances have dtype {label_map.dtype}; integers 0..n are expected"
        raise CaseDataError(msg)
    low, high = int(label_map.min(initial=0)), int(label_map.max(initial=0))
    if low < 0 or high > _MAX_VALUE:
        msg = f"{name} instances hold the values {low}..{high}; 0..n below 2**31 is expected"
        raise CaseDataError(msg)


def _contingency(
    reference: NDArray[Any], prediction: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of values that share voxels, as (reference rank, prediction rank, voxels); rank 0 is background."""
    foreground = (reference > 0) | (prediction > 0)
    base = int(prediction.max(initial=0)) + 1
    codes, voxels = np.unique(
        reference[foreground].astype(np.int64) * base + prediction[foreground].astype(np.int64), return_counts=True
    )
    return _ranks(codes // base), _ranks(codes % base), voxels.astype(np.int64)


def _ranks(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of values among the distinct ones, background first, so that large label values cost no memory."""
    distinct = np.union1d(values, [0])
    return np.searchsorted(distinct, values).astype(np.int64)
