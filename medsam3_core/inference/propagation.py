"""Propagation from one prompted slice through a volume: with the tracker if the weights have one, else by detection.

Both start from the instances on the key slice and go up, then down. Without a tracker each next slice is prompted again
(with the text, or the boxes of the masks on the slice before). An instance belongs to the object with the largest
overlap on the slice before; an object that is missed on one slice has ended.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.inference.linking import match_greedily
from medsam3_core.inference.merging import merge_instances
from medsam3_core.inference.protocol import FollowingSegmenter, Segmenter, SliceInstances
from medsam3_core.prompts.prompts import BoxPrompt, MaskPrompt, SlicePrompt, VolumePrompt
from medsam3_core.settings.inference import InferenceSettings

LINKED_BY_OVERLAP = "slices=key without tracker: per-slice detection linked by overlap"
KEY_SLICE_ALONE = "slices=key without tracker or detector: key slice alone"
MAX_OBJECTS = 64
"""Maximum objects of one structure that are followed; each costs memory in the tracker."""

EncodingOf = Callable[[int], Any]

_PRESENT = 0.5


@dataclass(frozen=True, eq=False)
class Seed:
    """Start of a structure that is followed through a volume.

    Attributes:
        z: Key slice.
        prompt: Prompt on the key slice.
        drawn: Instances of the structure on the key slice; None if the tracker answers the prompt itself.
    """

    run: str
    z: int
    prompt: SlicePrompt
    settings: InferenceSettings
    drawn: SliceInstances | None

    def objects(self) -> list[VolumePrompt]:
        """One prompt per object for the tracker."""
        if self.drawn is None:
            return [VolumePrompt(one, self.z) for one in self.prompt.objects()]
        name = self.prompt.structure
        return [VolumePrompt(SlicePrompt(name, masks=(MaskPrompt(mask),)), self.z) for mask in self.drawn.masks]


@dataclass(frozen=True, eq=False)
class FollowedSlice:
    """Instances of one seed on one slice.

    Attributes:
        instances: One instance per object on this slice.
        objects: Number of the object of each instance, from 0, shape (n,).
    """

    seed: Seed
    z: int
    instances: SliceInstances
    objects: NDArray[np.int64]


def follow_with_tracker(
    segmenter: FollowingSegmenter,
    encoding_of: EncodingOf,
    count: int,
    seeds: Sequence[Seed],
    note: Callable[[Seed, tuple[str, ...]], None],
) -> Iterator[FollowedSlice]:
    """Follow all objects of all seeds in two sweeps; slices without objects of a seed are left out.

    The key slice itself is given only for seeds that the tracker answers. Fallbacks go to `note`, also for slices
    without objects.
    """
    owners: list[tuple[int, int]] = []
    prompts: list[VolumePrompt] = []
    for number, seed in enumerate(seeds):
        for index, prompt in enumerate(seed.objects()):
            owners.append((number, index))
            prompts.append(prompt)
    if not prompts:
        return
    drawn = segmenter.follow(encoding_of, count, prompts, seeds[0].settings)
    for z, on_slice in groupby(drawn, key=lambda one: one.z):
        found: dict[int, list[tuple[int, NDArray[np.bool_], float]]] = {}
        for one in on_slice:
            number, index = owners[one.index]
            note(seeds[number], one.fallbacks)
            is_drawn = z == seeds[number].z and seeds[number].drawn is not None
            if one.score > _PRESENT and not is_drawn and (mask := one.mask).any():
                found.setdefault(number, []).append((index, mask, one.score))
        for number, parts in found.items():
            objects, masks, scores = zip(*parts, strict=True)
            instances = SliceInstances.of_masks(np.stack(masks), np.array(scores, dtype=np.float32))
            yield FollowedSlice(seeds[number], z, instances, np.array(objects, dtype=np.int64))


def follow_by_detection(
    segmenter: Segmenter, encoding_of: EncodingOf, count: int, seeds: Sequence[Seed]
) -> Iterator[FollowedSlice]:
    """Prompt slice after slice until no instance overlaps those of the slice before."""
    starts = [seed.z for seed in seeds]
    for order, step in ((range(min(starts) + 1, count), 1), (range(max(starts) - 1, -1, -1), -1)):
        trails = [_Trail(seed) for seed in seeds]
        for z in order:
            trails = [trail for trail in trails if trail.alive]
            if not trails:
                break
            due = [trail for trail in trails if (z - trail.seed.z) * step > 0]
            encoding = encoding_of(z) if due else None
            for trail in due:
                drawn = trail.follow(segmenter, encoding, z)
                if drawn is not None:
                    yield drawn


class _Trail:
    """The objects of one seed, followed in one direction."""

    def __init__(self, seed: Seed) -> None:
        assert seed.drawn is not None
        self.seed = seed
        self._masks = seed.drawn.masks
        self._objects = np.arange(len(seed.drawn.masks), dtype=np.int64)

    @property
    def alive(self) -> bool:
        """True if any object was found on the slice before."""
        return len(self._objects) > 0

    def follow(self, segmenter: Segmenter, encoding: Any, z: int) -> FollowedSlice | None:
        """The objects on the next slice; None if all have ended."""
        seed = self.seed
        prompt = self._prompt()
        answer = segmenter.segment(encoding, [prompt], seed.settings)[0]
        if seed.settings.merge.uses_semantic_mask:
            answer = merge_instances(answer, prompt, seed.settings)
        kept = answer.scores > seed.settings.threshold
        masks, scores = answer.masks[kept], answer.scores[kept]
        links = _linked(self._masks, masks)
        self._objects = self._objects[[before for before, _ in links]]
        self._masks = masks[[after for _, after in links]]
        if not links:
            return None
        found = SliceInstances.of_masks(self._masks, scores[[after for _, after in links]], answer.fallbacks)
        return FollowedSlice(seed, z, found, self._objects)

    def _prompt(self) -> SlicePrompt:
        asked = self.seed.prompt
        boxes = tuple(BoxPrompt.around(mask) for mask in self._masks) if asked.boxes else ()
        return SlicePrompt(asked.structure, text=asked.text, boxes=boxes, per_instance=True)


def _linked(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pairs (before, after) by falling IoU, each mask at most once, in the order of `before`."""
    if not len(before) or not len(after):
        return []
    one = before.reshape(len(before), -1).astype(np.float32)
    other = after.reshape(len(after), -1).astype(np.float32)
    shared = one @ other.T
    union = one.sum(axis=1)[:, None] + other.sum(axis=1)[None] - shared
    iou = shared / np.maximum(union, 1)
    first, second = np.indices(iou.shape).reshape(2, -1)
    return sorted(match_greedily(iou.reshape(-1), first, second).items())
