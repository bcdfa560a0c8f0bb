"""Regions of the structures of a reference on one slice: cropped masks, from one pass over the slice.

Bounding boxes of all label values come from a single `find_objects`; every mask is then built inside its box, so that
its cost grows with the box, not with the slice.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsam3_core.cases.structures import LabelMap
from medsam3_core.prompts.rows import WHOLE_STRUCTURE

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_MAX_DENSE_VALUE = 65535  # above, `find_objects` would list millions of values that do not exist

Window = tuple[slice, slice]
"""Rows and columns of a slice."""


@dataclass(frozen=True, eq=False)
class Region:
    """A structure or one instance of it on a slice.

    Attributes:
        instance: Number from 1; 0 for the structure as a whole.
        window: Its bounding box on the slice.
        mask: Boolean, shape of the window; touches all four of its edges.
    """

    instance: int
    window: Window
    mask: NDArray[np.bool_]

    @property
    def area(self) -> int:
        """Pixels inside."""
        return int(np.count_nonzero(self.mask))


class ReferenceRegions:
    """Structures of a reference and their label values; `on_slice` looks at one slice."""

    def __init__(self, reference: LabelMap) -> None:
        self._voxels = reference.voxels
        self._instance_of: dict[str, dict[int, int]] = {}
        for entry in reference.entries:
            self._instance_of.setdefault(entry.structure, {})[entry.value] = entry.instance

    def on_slice(self, z: int) -> "SliceRegions":
        """The structures on slice z."""
        return SliceRegions(self._voxels[z], self._instance_of)

    def key_slices(self, structures: tuple[str, ...]) -> dict[str, int]:
        """Slice of the largest area of each structure that the reference holds, the first of equals."""
        largest: dict[str, tuple[int, int]] = {}
        for z in range(len(self._voxels)):
            regions = self.on_slice(z)
            for structure in structures:
                region = regions.whole(structure)
                if region is not None and region.area > largest.get(structure, (0, 0))[0]:
                    largest[structure] = (region.area, z)
        return {structure: z for structure, (_, z) in largest.items()}


class SliceRegions:
    """The structures of a reference on one slice.

    Args:
        labels: Label values, unsigned, shape (y, x).
        instance_of: Structure to label value to instance.
    """

    def __init__(self, labels: NDArray[Any], instance_of: Mapping[str, Mapping[int, int]]) -> None:
        self._labels = labels
        self._instance_of = instance_of
        self._windows = _windows_by_value(labels)

    def holds(self, structure: str) -> bool:
        """True if any pixel belongs to the structure."""
        return any(value in self._windows for value in self._instance_of.get(structure, ()))

    def inside(self, structure: str, window: Window) -> NDArray[np.bool_]:
        """Mask of the structure within a window."""
        return np.isin(self._labels[window], list(self._instance_of.get(structure, ())))

    def whole(self, structure: str) -> Region | None:
        """The structure as a whole; None if the slice does not hold it."""
        present = [value for value in self._instance_of.get(structure, ()) if value in self._windows]
        return self._region(WHOLE_STRUCTURE, present) if present else None

    def instances(self, structure: str) -> Iterator[Region]:
        """Instances of the reference on this slice, by number; one in several pieces stays one."""
        values: dict[int, list[int]] = {}
        for value, instance in self._instance_of.get(structure, {}).items():
            if value in self._windows:
                values.setdefault(instance, []).append(value)
        for instance in sorted(values):
            yield self._region(instance, values[instance])

    def components(self, structure: str) -> Iterator[Region]:
        """Connected components (8 neighbours) of this slice, numbered from 1 in row-major order on each slice."""
        whole = self.whole(structure)
        if whole is None:
            return
        numbered, _ = ndimage.label(whole.mask, structure=_EIGHT_NEIGHBOURS)
        rows, columns = whole.window
        for number, window in enumerate(ndimage.find_objects(numbered), 1):
            mask = numbered[window] == number
            yield Region(number, (_moved(window[0], rows.start), _moved(window[1], columns.start)), mask)

    def _region(self, instance: int, values: list[int]) -> Region:
        window = _union([self._windows[value] for value in values])
        labels = self._labels[window]
        mask = labels == values[0] if len(values) == 1 else np.isin(labels, values)
        return Region(instance, window, mask)


def _windows_by_value(labels: NDArray[Any]) -> dict[int, Window]:
    """Bounding box of every label value above 0 that occurs."""
    largest = int(labels.max(initial=0))
    if largest == 0:
        return {}
    if largest <= _MAX_DENSE_VALUE:
        found = ndimage.find_objects(labels)
        return {value: (one[0], one[1]) for value, one in enumerate(found, 1) if one is not None}
    values, positions = np.unique(labels, return_inverse=True)
    found = ndimage.find_objects(positions.reshape(labels.shape) + 1)
    return {int(value): (one[0], one[1]) for value, one in zip(values, found, strict=True) if value > 0}


def _union(windows: list[Window]) -> Window:
    rows, columns = zip(*windows, strict=True)
    return _hull(rows), _hull(columns)


def _hull(extents: tuple[slice, ...]) -> slice:
    return slice(min(one.start for one in extents), max(one.stop for one in extents))


def _moved(extent: slice, offset: int) -> slice:
    return slice(extent.start + offset, extent.stop + offset)
