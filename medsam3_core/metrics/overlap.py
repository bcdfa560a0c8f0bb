"""Overlap and sizes of two masks from four counts: Dice, IoU, precision, recall, specificity, RAVD.

Voxels are counted once; every metric is computed from the counts. The empty-mask policy of all overlap metrics: NaN if
both masks are empty, 0.0 if exactly one is. Only specificity depends on the background; it is defined if the reference
leaves any.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medsam3_core.metrics.mask_pairs import MaskPair


@dataclass(frozen=True, slots=True)
class ConfusionCounts:
    """Voxel counts by reference and prediction; the four add up to the volume."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def reference(self) -> int:
        """Voxels of the reference."""
        return self.true_positive + self.false_negative

    @property
    def prediction(self) -> int:
        """Voxels of the prediction."""
        return self.true_positive + self.false_positive


def count_masks(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> ConfusionCounts:
    """Count two boolean masks, shape (z, y, x).

    Raises:
        CaseDataError: If the masks are not boolean or differ in shape.
    """
    return count_pair(MaskPair.of(reference, prediction))


def count_pair(pair: MaskPair) -> ConfusionCounts:
    """Count two masks that are checked and cropped already; voxels outside the crop are background."""
    both = int(np.count_nonzero(pair.reference & pair.prediction))
    reference, prediction = (int(np.count_nonzero(mask)) for mask in (pair.reference, pair.prediction))
    neither = pair.n_voxels - reference - prediction + both
    return ConfusionCounts(both, prediction - both, reference - both, neither)


def dice(counts: ConfusionCounts) -> float:
    """Twice the intersection over the sum of both (Dice 1945): in [0, 1]; NaN if both are empty, 0.0 if one is."""
    return _share(2 * counts.true_positive, counts.reference + counts.prediction)


def iou(counts: ConfusionCounts) -> float:
    """Intersection over union (Jaccard 1912): in [0, 1]; NaN if both are empty, 0.0 if one is."""
    return _share(counts.true_positive, counts.true_positive + counts.false_positive + counts.false_negative)


def precision(counts: ConfusionCounts) -> float:
    """Share of the prediction that is in the reference; NaN if both are empty.

    0.0 if exactly one is empty: leaving a prediction that misses the whole structure out of a mean would reward the
    miss.
    """
    if counts.prediction == 0 and counts.reference > 0:
        return 0.0
    return _share(counts.true_positive, counts.prediction)


def recall(counts: ConfusionCounts) -> float:
    """Share of the reference that is in the prediction (sensitivity); NaN if both are empty, 0.0 if one is."""
    if counts.reference == 0 and counts.prediction > 0:
        return 0.0
    return _share(counts.true_positive, counts.reference)


def specificity(counts: ConfusionCounts) -> float:
    """Share of the background of the reference that is background of the prediction; NaN if there is no background.

    Also defined if the structure is absent: 1.0 if the prediction is empty too. It depends on the amount of background
    in the image, so it compares predictions of one case, not cases.
    """
    return _share(counts.true_negative, counts.true_negative + counts.false_positive)


def ravd(counts: ConfusionCounts) -> float:
    """Absolute difference of the volumes over that of the reference, as a share (RAVD; Heimann et al. 2009, SLIVER07).

    Compares sizes only: masks of one size that do not overlap have 0. Read it beside an overlap metric.

    Returns:
        0 for equal volumes, without an upper bound; 1.0 if the prediction alone is empty, NaN if the reference is.
    """
    return _share(abs(counts.prediction - counts.reference), counts.reference)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
