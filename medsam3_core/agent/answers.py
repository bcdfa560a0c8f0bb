"""What the agent hands over: label volumes, or a reasoned "absent"."""

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
        reason: Why this is the answer, in a sentence.
        notes: What the reader must know: caps that were hit, masks that nobody accepted.
    """

    labels: NDArray[np.uint16]
    scores: NDArray[np.float32]
    reason: str
    notes: tuple[str, ...] = ()

    @property
    def absent(self) -> bool:
        """Whether the answer is that there is nothing."""
        return not len(self.scores)


def absent(shape_zyx: tuple[int, int, int], reason: str, notes: tuple[str, ...] = ()) -> AgentAnswer:
    """The answer that there is nothing."""
    return AgentAnswer(np.zeros(shape_zyx, dtype=np.uint16), np.zeros(0, dtype=np.float32), reason, notes)


def taken(candidate: Candidate, reason: str, notes: tuple[str, ...] = ()) -> AgentAnswer:
    """A candidate as it stands."""
    return AgentAnswer(candidate.labels(), candidate.scores, reason, notes)


def kept_objects(
    labels: NDArray[np.uint16], scores: NDArray[np.float32], keep: NDArray[np.bool_]
) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Some of the objects, numbered anew in their order.

    Args:
        labels: Objects 1..n.
        scores: Score of object 1..n.
        keep: Whether object 1..n stays, shape (n,).
    """
    table = np.zeros(len(scores) + 1, dtype=np.uint16)
    table[1:][keep] = np.arange(1, int(keep.sum()) + 1)
    return table[labels], scores[keep]


def joined(
    parts: list[tuple[NDArray[np.uint16], NDArray[np.float32]]], shape_zyx: tuple[int, int, int]
) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Several sets of objects in one label volume, by falling score; a voxel goes to the higher score."""
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
    """The objects of an answer that a slice holds, as instances of that slice."""
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
