"""Overlap and sizes of two masks from four counts: Dice, IoU, precision, recall, specificity, RAVD.

Counting is one pass over the voxels; every metric is arithmetic on the counts. The empty-mask policy of all overlap
metrics: NaN if both masks are empty (nothing to agree on), 0.0 if exactly one is. Specificity alone looks at the
background and is defined wherever the reference leaves one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medsam3_core.metrics.mask_pairs import MaskPair


@dataclass(frozen=True, slots=True)
class ConfusionCounts:
    """Voxels by what reference and prediction say of them; the four add up to the volume."""

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
    """Count two masks; background outside the box round both is known without looking."""
    in_both = int(np.count_nonzero(pair.reference & pair.prediction))
    one, other = (int(np.count_nonzero(mask)) for mask in (pair.reference, pair.prediction))
    return _complete(in_both, one, other, pair.n_voxels)


def dice(counts: ConfusionCounts) -> float:
    """Twice the intersection over the sum of both (Dice 1945): in [0, 1]; NaN if both are empty, 0.0 if one is."""
    return _share(2 * counts.true_positive, counts.reference + counts.prediction)


def iou(counts: ConfusionCounts) -> float:
    """Intersection over union (Jaccard 1912): in [0, 1]; NaN if both are empty, 0.0 if one is."""
    return _share(counts.true_positive, counts.true_positive + counts.false_positive + counts.false_negative)


def precision(counts: ConfusionCounts) -> float:
    """Share of the prediction that is in the reference; NaN if both are empty.

    0.0 if exactly one is empty: a prediction that misses the whole structure has nothing to be precise about, and
    leaving it out of a mean would reward the miss.
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
    """Share of the background of the reference that the prediction leaves free; NaN if there is no background.

    Defined where the structure is absent too: 1.0 if the prediction is empty there. It depends on how much
    background the image shows, so it compares predictions of one case, not cases.
    """
    return _share(counts.true_negative, counts.true_negative + counts.false_positive)


def ravd(counts: ConfusionCounts) -> float:
    """Absolute difference of the volumes over that of the reference, as a share (RAVD; Heimann et al. 2009, SLIVER07).

    Looks at sizes alone: masks of one size that do not touch have 0. Read it beside an overlap.

    Returns:
        0 for equal volumes, without an upper bound; 1.0 if the prediction alone is empty, NaN if the reference is.
    """
    return _share(abs(counts.prediction - counts.reference), counts.reference)


def _complete(in_both: int, reference: int, prediction: int, voxels: int) -> ConfusionCounts:
    in_none = voxels - reference - prediction + in_both
    return ConfusionCounts(in_both, prediction - in_both, reference - in_both, in_none)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
