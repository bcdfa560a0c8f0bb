"""Answers of the agent: label volumes, or "absent" with a reason."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medsam3_core.agent.session import Candidate
from medsam3_core.inference.predictions import PredictionBuilder, VolumePrediction
from medsam3_core.inference.protocol import SliceInstances


@dataclass(frozen=True, eq=False)
class AgentAnswer:
    """The answer to one request.

    Attributes:
        labels: Objects 1..n by falling score, shape (z, y, x); all 0 for "absent".
        scores: Score of object 1..n, float32.
        reason: Reason for the answer, in a sentence.
        notes: Warnings: caps that were hit, masks that were not accepted.
    """

    labels: NDArray[np.uint16]
    scores: NDArray[np.float32]
    reason: str
    notes: tuple[str, ...] = ()

    @property
    def absent(self) -> bool:
        """True if the answer is "absent"."""
        return not len(self.scores)


def absent(shape_zyx: tuple[int, int, int], reason: str, notes: tuple[str, ...] = ()) -> AgentAnswer:
    """The answer "absent"."""
    return AgentAnswer(np.zeros(shape_zyx, dtype=np.uint16), np.zeros(0, dtype=np.float32), reason, notes)


def taken(candidate: Candidate, reason: str, notes: tuple[str, ...] = ()) -> AgentAnswer:
    """A candidate, unchanged, as the answer."""
    return AgentAnswer(candidate.labels(), candidate.scores, reason, notes)


def kept_objects(
    labels: NDArray[np.uint16], scores: NDArray[np.float32], keep: NDArray[np.bool_]
) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Keep objects 1..n where `keep`, shape (n,), is True, and renumber them in their order."""
    table = np.zeros(len(scores) + 1, dtype=np.uint16)
    table[1:][keep] = np.arange(1, int(keep.sum()) + 1)
    return table[labels], scores[keep]


def joined(
    parts: list[tuple[NDArray[np.uint16], NDArray[np.float32]]], shape_zyx: tuple[int, int, int]
) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Merge sets of objects into one label volume, by falling score; a voxel goes to the higher score."""
    objects = [
        (float(score), index, number + 1)
        for index, (_, scores) in enumerate(parts)
        for number, score in enumerate(scores)
    ]
    objects.sort(key=lambda one: -one[0])
    labels, scores = np.zeros(shape_zyx, dtype=np.uint16), []
    for score, index, number in objects[: np.iinfo(np.uint16).max]:
        mask = (parts[index][0] == number) & (labels == 0)
        if mask.any():
            scores.append(score)
            labels[mask] = len(scores)
    return labels, np.asarray(scores, dtype=np.float32)


def on_slice(answer: AgentAnswer, z: int) -> SliceInstances:
    """Objects of an answer on one slice, as instances of the slice."""
    numbers = np.unique(answer.labels[z])
    numbers = numbers[numbers > 0].astype(np.intp)
    return SliceInstances.of_masks(answer.labels[z] == numbers[:, None, None], answer.scores[numbers - 1])


def as_prediction(answers: Mapping[str, AgentAnswer], shape_zyx: tuple[int, int, int]) -> VolumePrediction:
    """All answers as the prediction of a volume."""
    builder = PredictionBuilder(shape_zyx, list(answers))
    for structure, answer in answers.items():
        builder.note(answer.notes)
        for z in np.flatnonzero(answer.labels.any(axis=(1, 2))):
            numbers = np.unique(answer.labels[z])
            numbers = numbers[numbers > 0]
            labels = np.searchsorted(numbers, answer.labels[z]) + 1
            labels[answer.labels[z] == 0] = 0
            scores = answer.scores[numbers - 1]
            builder.add(structure, int(z), labels.astype(np.uint16), scores, numbers.astype(np.int64) - 1)
    return builder.finish()
