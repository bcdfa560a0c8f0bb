"""One object, one number: link the instances of a slice with those of the next.

Greedy one-to-one matching by IoU between neighbouring slices, as Cellpose stitches 2D masks into 3D
(Stringer et al., Nature Methods 18, 2021, `stitch3D`); its usual threshold is 0.25. Ours is lower, because clinical
slices are thick and organs taper, and one-to-one matching already keeps neighbours apart.

Limits: only direct neighbours are compared, so an object that is missed on one slice gets a new number behind the gap;
of a branching object one branch keeps the number; an object that moves by its own width per slice is not followed.
"""

import numpy as np
from numpy.typing import NDArray

LINK_IOU = 0.1
"""Least IoU on neighbouring slices for two instances to be one object."""


def link_labels(
    lower: NDArray[np.uint16],
    upper: NDArray[np.uint16],
    lower_areas: NDArray[np.int64],
    upper_areas: NDArray[np.int64],
) -> dict[int, int]:
    """Which label of the lower slice each label of the upper slice continues.

    Pairs are taken by falling IoU, of equals the one with the smaller labels; a label is used at most once.

    Args:
        lower: Labels of one slice, 0 is background; any window that holds all pixels where both slices have labels.
        upper: Labels of the next slice in the same window.
        lower_areas: Pixels of label 1..n on the whole lower slice, shape (n,).
        upper_areas: The same for the upper slice.

    Returns:
        Upper label to lower label; labels without partner are absent.
    """
    both = (lower > 0) & (upper > 0)
    stride = len(upper_areas) + 1
    codes, shared = np.unique(lower[both].astype(np.int64) * stride + upper[both], return_counts=True)
    of_lower, of_upper = codes // stride, codes % stride
    iou = shared / (lower_areas[of_lower - 1] + upper_areas[of_upper - 1] - shared)
    links: dict[int, int] = {}
    taken: set[int] = set()
    for index in np.argsort(-iou, kind="stable"):
        below, above = int(of_lower[index]), int(of_upper[index])
        if iou[index] >= LINK_IOU and below not in taken and above not in links:
            links[above] = below
            taken.add(below)
    return links
