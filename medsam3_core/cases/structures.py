"""Structures with stable names, and the label maps that hold them."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.intensity import IntensityPolicy
from medsam3_core.errors import CaseDataError, UsageError

_FEW_VALUES = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True, slots=True)
class Structure:
    """An organ, lesion or cell type of a cohort.

    Attributes:
        name: Stable name, used in tables and as the folder of its label image: letters, digits and `_ . + -`.
        text: Text of its text prompts.
        synonyms: Other texts for the same structure, reviewed.
        instances: True if the structure comes in countable instances (nuclei, polyps, lesions).
        tubular: True if its topology matters more than its area (vessels); adds clDice.
        nsd_tolerance: Maximum surface distance that counts as agreement, in the unit of the geometry.
        window: Own intensity policy, such as a lung window in an abdominal cohort; empty for that of the cohort.
    """

    name: str
    text: str
    synonyms: tuple[str, ...] = ()
    instances: bool = False
    tubular: bool = False
    nsd_tolerance: float = 2.0
    window: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            msg = f"structure name {self.name!r} may hold letters, digits and _ . + - only; rename it in the recipe"
            raise UsageError(msg)
        if not self.text.strip():
            msg = f"structure {self.name!r} has an empty text; give it one in the recipe"
            raise UsageError(msg)
        if self.window:
            IntensityPolicy.parse(self.window)
        if not self.nsd_tolerance > 0:
            msg = f"structure {self.name!r} has the NSD tolerance {self.nsd_tolerance}; it must be above 0"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """Meaning of one label value: an instance (1 if there is only one) of a structure."""

    value: int
    structure: str
    instance: int = 1


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Integer voxels with geometry and the meaning of every value.

    Attributes:
        voxels: Shape (z, y, x), unsigned integers, 0 is background.
        entries: Meaning of each value; a value may belong to several structures (a tumour core inside a tumour).
    """

    voxels: NDArray[Any]
    geometry: VolumeGeometry
    entries: tuple[LabelEntry, ...]
    rater: str = "reference"

    def __post_init__(self) -> None:
        if self.voxels.shape != self.geometry.shape_zyx:
            msg = f"label map has shape {self.voxels.shape}, its geometry {self.geometry.shape_zyx}"
            raise CaseDataError(msg)
        if not np.issubdtype(self.voxels.dtype, np.unsignedinteger):
            msg = f"label map has dtype {self.voxels.dtype}; unsigned integers are expected"
            raise CaseDataError(msg)

    @cached_property
    def _values(self) -> dict[str, tuple[int, ...]]:
        values: dict[str, list[int]] = {}
        for entry in self.entries:
            values.setdefault(entry.structure, []).append(entry.value)
        return {structure: tuple(found) for structure, found in values.items()}

    def present_structures(self) -> tuple[str, ...]:
        """Structures with at least one voxel, sorted."""
        if len(self.entries) <= _FEW_VALUES:
            return tuple(sorted({e.structure for e in self.entries if (self.voxels == e.value).any()}))
        present = np.zeros(int(self.voxels.max(initial=0)) + 1, dtype=bool)
        present[self.voxels.reshape(-1)] = True
        return tuple(sorted({e.structure for e in self.entries if e.value < present.size and present[e.value]}))

    def mask(self, structure: str) -> NDArray[np.bool_]:
        """Boolean mask (z, y, x) of a structure; all False if the map does not hold it."""
        return np.isin(self.voxels, self._values.get(structure, ()))

    def instances(self, structure: str) -> NDArray[np.uint16]:
        """Instances of a structure as 1..n, shape (z, y, x); 0 elsewhere."""
        table = np.zeros(int(self.voxels.max(initial=0)) + 1, dtype=np.uint16)
        for entry in self.entries:
            if entry.structure == structure and entry.value < table.size:
                table[entry.value] = entry.instance
        instances: NDArray[np.uint16] = table[self.voxels]
        return instances
