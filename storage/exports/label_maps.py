"""Label maps with one value per voxel; a contested voxel goes to the structure or instance with the higher score."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.inference.merging import MAX_LABELS
from medsam3_core.inference.predictions import VolumePrediction
from medsam3_core.inference.protocol import SliceInstances
from storage.runs.predictions import StoredPrediction


def label_names(structures: Sequence[str]) -> dict[str, int]:
    """Name to value of the background and of each structure, as `labels.json` lists them."""
    return {"background": 0, **{name: value for value, name in enumerate(structures, start=1)}}


def merge_structures(
    prediction: StoredPrediction, structures: Sequence[str]
) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], int]:
    """One label map (z, y, x) of all structures, value n for the n-th, and the number of contested voxels.

    At equal scores a voxel goes to the first structure.
    """
    shape = prediction.geometry().shape_zyx
    values = np.zeros(shape, dtype=np.uint8 if len(structures) < 256 else np.uint16)
    best = np.zeros(shape, dtype=np.float32)
    contested = np.zeros(shape, dtype=bool)
    for value, structure in enumerate(structures, start=1):
        if structure not in prediction.structures:
            continue
        labels = prediction.labels(structure)
        drawn = labels > 0
        scores = np.array([0.0, *prediction.scores(structure)], dtype=np.float32)[labels]
        contested |= drawn & (values > 0)
        taken = drawn & ((values == 0) | (scores > best))
        values[taken] = value
        best[taken] = scores[taken]
    return values, int(contested.sum())


def merge_objects(prediction: VolumePrediction, shape_zyx: tuple[int, int, int]) -> NDArray[np.integer[Any]]:
    """One label map (z, y, x) of all objects, numbered consecutively across structures."""
    count = sum(len(prediction.confidence(name)) for name in prediction.structures)
    volume = np.zeros(shape_zyx, dtype=_label_type(count))
    scores = np.zeros(1, dtype=np.float32)
    for name in prediction.structures:
        labels, own = prediction.labels(name), prediction.confidence(name)
        offset = len(scores) - 1
        scores = np.concatenate([scores, own])
        for drawn, before in zip(labels, volume, strict=True):  # by slice: numbers and scores take more than labels
            numbers = np.where(drawn > 0, drawn.astype(np.int32) + offset, 0)
            taken = (drawn > 0) & ((before == 0) | (scores[numbers] > scores[before]))
            before[taken] = numbers[taken]
    return volume


def numbered_instances(found: SliceInstances) -> NDArray[np.integer[Any]]:
    """One label map (y, x) of the instances of a slice: value i for instance i, from 1."""
    labels = np.zeros(found.masks.shape[1:], dtype=_label_type(len(found.scores)))
    for index in reversed(np.argsort(-found.scores, kind="stable")):
        labels[found.masks[index]] = index + 1
    return labels


def _label_type(count: int) -> type[np.integer[Any]]:
    """The smallest NIfTI label type for so many objects."""
    return np.uint16 if count <= MAX_LABELS else np.int32
