"""Instances that may overlap, as one label map."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.structures import LabelEntry
from storage.readers.mask_shapes import compact


def overlay_instances(
    shape_zyx: tuple[int, int, int], instances: Sequence[tuple[str, NDArray[np.bool_]]]
) -> tuple[NDArray[Any], tuple[LabelEntry, ...], int]:
    """One label map of instances of several structures.

    Within a structure a pixel belongs to the smallest instance that covers it (small ones lie on large ones); pixels of
    several structures get a value of their own that means both.

    Args:
        shape_zyx: One slice: (1, y, x).
        instances: Structure and mask (1, y, x) of each, numbered per structure in this order.

    Returns:
        Labels as uint8 or uint16, their meaning, and how many pixels two instances of one structure claimed.
    """
    structures = sorted({name for name, _ in instances})
    planes, contested = [], 0
    for structure in structures:
        own = [mask for name, mask in instances if name == structure]
        plane = np.zeros(shape_zyx, dtype=np.int64)
        claims = np.zeros(shape_zyx, dtype=np.int32)
        for number in sorted(range(len(own)), key=lambda index: -int(own[index].sum())):
            plane[own[number]] = number + 1
            claims += own[number]
        planes.append(plane)
        contested += int((claims > 1).sum())
    if not planes:
        return np.zeros(shape_zyx, dtype=np.uint8), (), 0
    stacked = np.stack(planes, axis=-1).reshape(-1, len(planes))
    found, labels = np.unique(stacked, axis=0, return_inverse=True)
    labels = labels.reshape(shape_zyx) + int(found[0].any())
    entries = tuple(
        LabelEntry(value, structures[column], int(number))
        for value, row in enumerate(found, start=int(found[0].any()))
        for column, number in enumerate(row)
        if number
    )
    return compact(labels), entries, contested
