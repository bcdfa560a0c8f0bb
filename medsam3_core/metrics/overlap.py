"""Overlap of two masks from four counts: Dice, IoU, precision, recall, specificity.

Counting is one pass over the voxels; every metric is arithmetic on the counts. The empty-mask policy of all overlap
metrics: NaN if both masks are empty (nothing to agree on), 0.0 if exactly one is. Specificity alone looks at the
background and is defined wherever the reference leaves one.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.errors import CaseDataError
from medsam3_core.metrics.mask_pairs import MaskPair

_CHUNK_VOXELS = 1 << 20  # the joint codes of a chunk (8 MB) stay in the cache; whole volumes would need 8 B a voxel


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


def confusion_matrix(reference: NDArray[Any], prediction: NDArray[Any], *, n_values: int) -> NDArray[np.int64]:
    """Count every pair of label values of two label maps in one pass: all structures at once.

    Args:
        reference: Integer label map, any shape, values 0..n_values - 1.
        prediction: Integer label map of the same shape and value range.
        n_values: Number of label values, background included.

    Returns:
        Shape (n_values, n_values): entry [r, p] counts the voxels with reference r and prediction p.

    Raises:
        CaseDataError: If the shapes differ, a map is not of integers or a value lies outside the range.
    """
    if reference.shape != prediction.shape:
        msg = f"reference has shape {reference.shape}, prediction {prediction.shape}; both must be on the same grid"
        raise CaseDataError(msg)
    for name, label_map in (("reference", reference), ("prediction", prediction)):
        if not np.issubdtype(label_map.dtype, np.integer):
            msg = f"{name} label map has dtype {label_map.dtype}; integers are expected"
            raise CaseDataError(msg)
    pairs = np.zeros(n_values * n_values, dtype=np.int64)
    flat_reference, flat_prediction = reference.reshape(-1), prediction.reshape(-1)
    for start in range(0, flat_reference.size, _CHUNK_VOXELS):
        chunk = slice(start, start + _CHUNK_VOXELS)
        rows = _in_range("reference", flat_reference[chunk], n_values)
        columns = _in_range("prediction", flat_prediction[chunk], n_values)
        pairs += np.bincount(rows * n_values + columns, minlength=pairs.size)
    return pairs.reshape(n_values, n_values)


def counts_of(matrix: NDArray[np.int64], values: Collection[int]) -> ConfusionCounts:
    """Counts of the structure that consists of `values` in both label maps of a `confusion_matrix`.

    A value may belong to several structures (a tumour core inside a tumour): ask once per structure.
    """
    index = list(dict.fromkeys(values))
    in_both = int(matrix[np.ix_(index, index)].sum())
    return _complete(in_both, int(matrix[index].sum()), int(matrix[:, index].sum()), int(matrix.sum()))


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


def _complete(in_both: int, reference: int, prediction: int, voxels: int) -> ConfusionCounts:
    in_none = voxels - reference - prediction + in_both
    return ConfusionCounts(in_both, prediction - in_both, reference - in_both, in_none)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _in_range(name: str, values: NDArray[Any], n_values: int) -> NDArray[np.int64]:
    if values.min() < 0 or values.max() >= n_values:
        msg = f"{name} label map holds the values {values.min()}..{values.max()}, expected 0..{n_values - 1}"
        raise CaseDataError(msg)
    return values.astype(np.int64)
