"""Linking of the instances of a slice with those of the next, so that an object keeps its number.

Greedy one-to-one matching by IoU between neighbouring slices, as Cellpose stitches 2D masks into 3D
(Stringer et al., Nature Methods 18, 2021, `stitch3D`); its usual threshold is 0.25. Ours is lower, because clinical
slices are thick and organs taper, and one-to-one matching already keeps neighbours apart.

Limits: only direct neighbours are compared, so an object that is missed on one slice gets a new number after the gap;
of a branching object one branch keeps the number; an object that moves by its own width per slice is not followed.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

LINK_IOU = 0.1
"""Minimum IoU on neighbouring slices for two instances to be one object."""


def link_labels(
    lower: NDArray[np.uint16],
    upper: NDArray[np.uint16],
    lower_areas: NDArray[np.int64],
    upper_areas: NDArray[np.int64],
) -> dict[int, int]:
    """Match the labels of a slice with those that they continue on the lower slice, see `match_greedily`.

    Args:
        lower: Labels of one slice, 0 is background; any window that holds all pixels labelled on both slices.
        upper: Labels of the next slice in the same window.
        lower_areas: Pixels of label 1..n on the whole lower slice, shape (n,).
        upper_areas: The same for the upper slice.

    Returns:
        Upper label to lower label; labels without a match are absent.
    """
    both = (lower > 0) & (upper > 0)
    stride = len(upper_areas) + 1
    codes, shared = np.unique(lower[both].astype(np.int64) * stride + upper[both], return_counts=True)
    of_lower, of_upper = codes // stride, codes % stride
    iou = shared / (lower_areas[of_lower - 1] + upper_areas[of_upper - 1] - shared)
    return match_greedily(iou, of_upper, of_lower)


def match_greedily(iou: NDArray[Any], keys: NDArray[np.integer], values: NDArray[np.integer]) -> dict[int, int]:
    """One-to-one pairs of at least `LINK_IOU`, key to value: by falling IoU, of equals the earlier pair first.

    Args:
        iou: IoU of the candidate pairs, shape (n,).
        keys: First member of each pair, shape (n,).
        values: Second member of each pair, shape (n,).
    """
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for index in np.argsort(-iou, kind="stable"):
        key, value = int(keys[index]), int(values[index])
        if iou[index] >= LINK_IOU and key not in pairs and value not in taken:
            pairs[key] = value
            taken.add(value)
    return pairs
