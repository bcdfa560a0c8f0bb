"""Predictions of a volume: label slices are collected, and assembled to label volumes one structure at a time.

Slices are kept as zlib-compressed crops, so that thirty structures of a 512 x 512 x 200 volume cost megabytes instead
of three gigabytes; only the requested structure is dense.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medsam3_core.errors import UsageError
from medsam3_core.inference.linking import link_labels
from medsam3_core.inference.merging import MAX_LABELS
from medsam3_core.prompts.regions import Window

_COMPRESSION = 1  # label crops shrink 50-fold at the fastest level


@dataclass(frozen=True, eq=False)
class _LabelCrop:
    """The labels of one slice inside their bounding box, compressed.

    Attributes:
        window: Rows and columns of the slice.
        packed: The uint16 labels of the window.
        scores: Score of label 1..n, float64.
        areas: Pixels of label 1..n.
        objects: Object of label 1..n if objects were followed through the volume; None if they are linked by overlap.
    """

    window: Window
    packed: bytes
    scores: NDArray[np.float64]
    areas: NDArray[np.int64]
    objects: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls, labels: NDArray[np.uint16], scores: NDArray[np.float64], objects: NDArray[np.int64] | None
    ) -> "_LabelCrop":
        rows, columns = np.flatnonzero(labels.any(axis=1)), np.flatnonzero(labels.any(axis=0))
        window = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        crop = labels[window]
        areas = np.bincount(crop.reshape(-1), minlength=len(scores) + 1)[1:]
        return cls(window, zlib.compress(np.ascontiguousarray(crop).data, _COMPRESSION), scores, areas, objects)

    def unpack(self) -> NDArray[np.uint16]:
        rows, columns = self.window
        flat = np.frombuffer(zlib.decompress(self.packed), dtype=np.uint16)
        return flat.reshape(rows.stop - rows.start, columns.stop - columns.start)


@dataclass(frozen=True, eq=False)
class _LinkedStructure:
    """One structure of a finished prediction.

    Attributes:
        numbers: Per z, the number in the volume of label 0..n of that slice.
        scores: Score of number 1..n.
    """

    crops: Mapping[int, _LabelCrop]
    numbers: Mapping[int, NDArray[np.uint16]]
    scores: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class VolumePrediction:
    """Prediction of one volume.

    Attributes:
        shape_zyx: Shape of the volume.
        structures: Requested structures in order, also empty ones.
        fallbacks: Measures taken to fit, each once.
    """

    shape_zyx: tuple[int, int, int]
    structures: tuple[str, ...]
    fallbacks: tuple[str, ...]
    _linked: Mapping[str, _LinkedStructure]

    def labels(self, structure: str) -> NDArray[np.uint16]:
        """Label volume (z, y, x): 0 background, objects 1..n by falling score; slices without prompt are 0.

        Raises:
            UsageError: If the prediction has no such structure.
        """
        linked = self._structure(structure)
        volume = np.zeros(self.shape_zyx, dtype=np.uint16)
        for z, crop in linked.crops.items():
            volume[z][crop.window] = linked.numbers[z][crop.unpack()]
        return volume

    def confidence(self, structure: str) -> NDArray[np.float32]:
        """Score of object 1..n, shape (n,): the mean over its slices, weighted by area."""
        return self._structure(structure).scores.astype(np.float32)

    def _structure(self, structure: str) -> _LinkedStructure:
        if structure not in self._linked:
            raise UsageError(_unknown(structure, self.structures))
        return self._linked[structure]


class PredictionBuilder:
    """Collects the label slices of several structures of one volume, in any order.

    Args:
        shape_zyx: Shape of the volume.
        structures: Requested structures; those never added stay background.
    """

    def __init__(self, shape_zyx: tuple[int, int, int], structures: Sequence[str]) -> None:
        self._shape_zyx = shape_zyx
        self._crops: dict[str, dict[int, _LabelCrop | None]] = {structure: {} for structure in structures}
        self._fallbacks: dict[str, None] = {}

    def add(
        self,
        structure: str,
        z: int,
        labels: NDArray[np.uint16],
        scores: NDArray[np.float32],
        objects: NDArray[np.int64] | None = None,
    ) -> None:
        """Add one slice of one structure.

        Args:
            structure: One of the requested structures.
            z: Index of the slice.
            labels: Shape (y, x), uint16, 0 is background, 1..n instances.
            scores: Score of label 1..n, shape (n,).
            objects: Object of label 1..n, from 0, the same on all slices of the structure, if objects were followed
                through the volume; all slices of a structure have them, or none.

        Raises:
            UsageError: If the structure was not requested or the volume has no such slice.
            ValueError: If the slice was added before, has another shape, or labels and scores do not correspond.
        """
        if structure not in self._crops:
            raise UsageError(_unknown(structure, tuple(self._crops)))
        depth, *shape_yx = self._shape_zyx
        if not 0 <= z < depth:
            msg = f"slice {z} of {structure!r} is prompted, the volume has slices 0..{depth - 1}"
            raise UsageError(msg)
        if z in self._crops[structure]:
            msg = f"slice {z} of {structure!r} is added twice"
            raise ValueError(msg)
        largest = int(labels.max(initial=0))
        if labels.shape != tuple(shape_yx) or labels.dtype != np.uint16 or largest > len(scores):
            msg = (
                f"slice {z} of {structure!r}: uint16 labels of shape {tuple(shape_yx)} up to the number of scores are "
                f"expected, got {labels.dtype} {labels.shape}, largest label {largest}, {len(scores)} scores"
            )
            raise ValueError(msg)
        self._crops[structure][z] = _LabelCrop.of(labels, scores.astype(np.float64), objects) if largest else None

    def note(self, fallbacks: Iterable[str]) -> None:
        """Add measures taken to fit; each text once, in the order of first appearance."""
        self._fallbacks.update(dict.fromkeys(fallbacks))

    def finish(self) -> VolumePrediction:
        """Link objects through the slices and number them 1..n by falling score.

        At most 65535 objects of a structure keep a number; beyond that those of the lowest scores are dropped, and a
        fallback gives their number.
        """
        linked = {
            structure: _link({z: crop for z, crop in sorted(slices.items()) if crop is not None})
            for structure, slices in self._crops.items()
        }
        for structure, (_, found) in linked.items():
            if found > MAX_LABELS:
                self.note([f"objects-capped:{structure}:{found}>{MAX_LABELS}"])
        return VolumePrediction(
            self._shape_zyx,
            tuple(self._crops),
            tuple(self._fallbacks),
            {structure: one for structure, (one, _) in linked.items()},
        )


def _link(crops: Mapping[int, _LabelCrop]) -> tuple[_LinkedStructure, int]:
    """Number the objects of one structure; also gives their count before the cap."""
    objects = _objects_by_slice(crops)
    count = 1 + max((int(one.max()) for one in objects.values()), default=-1)
    voxels = np.zeros(count, dtype=np.int64)
    weighted = np.zeros(count, dtype=np.float64)
    for z, crop in crops.items():
        voxels[objects[z]] += crop.areas
        weighted[objects[z]] += crop.areas * crop.scores
    scores = weighted / np.maximum(voxels, 1)
    order = np.argsort(-scores, kind="stable")
    order = order[voxels[order] > 0]
    kept = order[:MAX_LABELS]
    number_of = np.zeros(count, dtype=np.uint16)
    number_of[kept] = np.arange(1, len(kept) + 1)
    numbers = {z: np.concatenate([[0], number_of[objects[z]]]).astype(np.uint16) for z in crops}
    return _LinkedStructure(crops, numbers, scores[kept]), len(order)


def _objects_by_slice(crops: Mapping[int, _LabelCrop]) -> dict[int, NDArray[np.int64]]:
    """Object, from 0 in order of appearance, of label 1..n of each slice; two slices are unpacked at a time."""
    objects: dict[int, NDArray[np.int64]] = {}
    count = 0
    below: tuple[int, _LabelCrop, NDArray[np.uint16]] | None = None
    for z, crop in crops.items():
        if crop.objects is not None:
            objects[z] = crop.objects
            continue
        labels = crop.unpack()
        links: dict[int, int] = {}
        if below is not None and below[0] == z - 1:
            lower, upper = _common(below[1].window, below[2], crop.window, labels)
            links = link_labels(lower, upper, below[1].areas, crop.areas)
        ids = np.empty(len(crop.scores), dtype=np.int64)
        for label in range(1, len(ids) + 1):
            if label in links:
                ids[label - 1] = objects[z - 1][links[label] - 1]
            else:
                ids[label - 1], count = count, count + 1
        objects[z] = ids
        below = (z, crop, labels)
    return objects


def _common(
    lower_window: Window, lower: NDArray[np.uint16], upper_window: Window, upper: NDArray[np.uint16]
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Both crops cut to their common window; empty if they have none."""
    starts = [max(a.start, b.start) for a, b in zip(lower_window, upper_window, strict=True)]
    stops = [min(a.stop, b.stop) for a, b in zip(lower_window, upper_window, strict=True)]

    def cut(window: Window, labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
        rows, columns = (
            slice(start - extent.start, max(start, stop) - extent.start)
            for start, stop, extent in zip(starts, stops, window, strict=True)
        )
        return labels[rows, columns]

    return cut(lower_window, lower), cut(upper_window, upper)


def _unknown(structure: str, known: Sequence[str]) -> str:
    return f"unknown structure {structure!r}; the prediction has: {', '.join(known)}"
