"""Merging of the instances of one prompt into the label slice that is kept and scored.

The setting `merge` selects the instances of the structure; `auto` is the protocol of the product:

- text, alone or with boxes: every instance above the threshold (the text names the concept, boxes are exemplars);
- one positive box for the structure, concept mode: the instance whose box has the highest IoU with it (`best`);
- several boxes, or boxes per instance, in concept mode: every instance above the threshold;
- points, masks and interactive mode: every object of any score, since a person marked each.

Predictions are never clipped to the box.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsam3_core.errors import UnsupportedPromptError
from medsam3_core.inference.protocol import SliceInstances
from medsam3_core.prompts.checks import is_interactive
from medsam3_core.prompts.prompts import BoxPrompt, SlicePrompt
from medsam3_core.settings.inference import InferenceSettings, Merge, PromptMode

MAX_LABELS = 65535
"""Instances that a uint16 label image can hold."""
MAX_COMPONENT_PIXELS = 2**30
"""Pixels of the masks of all connected components of one answer: 1 GB as booleans."""
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def merge_instances(instances: SliceInstances, prompt: SlicePrompt, settings: InferenceSettings) -> SliceInstances:
    """Keep the instances of the structure; those without a pixel are dropped.

    `union` keeps every instance above the threshold as a separate instance, and every object of the interactive head.
    `best` keeps, for each positive box, the instance whose box has the highest IoU with it (the higher score of equals,
    none if nothing overlaps it); without boxes the one with the highest score. `top` keeps the one with the highest
    score, with or without boxes. `semantic` makes one instance of the semantic mask, whose score is the presence.
    `components` makes one, with that score, of each part of the semantic mask that is connected over sides or corners:
    for objects that hardly touch and outnumber the queries. If their masks would exceed `MAX_COMPONENT_PIXELS`, only
    the largest are kept, with a note in `fallbacks`.

    Raises:
        UnsupportedPromptError: If the semantic mask is needed and there is none.
    """
    if settings.merge.uses_semantic_mask:
        return _of_the_semantic_mask(instances, prompt, settings)
    shown = is_interactive(prompt, settings.mode)
    kept = _above_threshold(instances, -1.0 if shown else settings.threshold)
    if settings.merge is Merge.TOP:
        return _select(kept, _best(kept, []))
    if settings.merge is Merge.BEST or (settings.merge is Merge.AUTO and _is_one_exemplar(prompt, settings)):
        return _select(kept, _best(kept, [box for box in prompt.boxes if box.positive]))
    return kept


def number_instances(instances: SliceInstances) -> tuple[NDArray[np.uint16], NDArray[np.intp]]:
    """Number instances 1..n by falling score; a pixel of several instances goes to the higher score.

    Of equal scores the earlier instance wins. An instance that keeps no pixel gets no number; at most 65535 do.

    Returns:
        Labels of shape (y, x), 0 is background, and the position of the instance behind label 1..n, shape (n,).
    """
    order = np.argsort(-instances.scores, kind="stable")[:MAX_LABELS]
    labels = np.zeros(instances.masks.shape[1:], dtype=np.uint16)
    for rank in range(len(order), 0, -1):
        labels[instances.masks[order[rank - 1]]] = rank
    visible = np.bincount(labels[labels > 0], minlength=len(order) + 1)[1:] > 0
    if not visible.all():
        labels = np.concatenate([[0], np.cumsum(visible)]).astype(np.uint16)[labels]
    return labels, order[visible]


def _is_one_exemplar(prompt: SlicePrompt, settings: InferenceSettings) -> bool:
    positive = sum(box.positive for box in prompt.boxes)
    concept = settings.mode is PromptMode.CONCEPT
    return concept and prompt.kinds == {"box"} and positive == 1 and not prompt.per_instance


def _above_threshold(instances: SliceInstances, threshold: float) -> SliceInstances:
    return _select(instances, np.flatnonzero((instances.scores > threshold) & instances.masks.any(axis=(1, 2))))


def _best(instances: SliceInstances, boxes: Sequence[BoxPrompt]) -> list[int]:
    """Positions of the instances that fit the boxes best, each once, in order."""
    if len(instances.scores) == 0:
        return []
    by_score = np.argsort(-instances.scores, kind="stable")
    if not boxes:
        return [int(by_score[0])]
    best = set()
    for box in boxes:
        overlap = _box_iou(instances.boxes_xyxy[by_score], box)
        if overlap.max() > 0:
            best.add(int(by_score[np.argmax(overlap)]))
    return sorted(best)


def _box_iou(boxes_xyxy: NDArray[np.float32], box: BoxPrompt) -> NDArray[np.float64]:
    """IoU of half-open boxes, shape (n, 4), with one box, shape (n,)."""
    x0, y0, x1, y1 = boxes_xyxy.astype(np.float64).T
    width = np.clip(np.minimum(x1, box.x1) - np.maximum(x0, box.x0), 0.0, None)
    height = np.clip(np.minimum(y1, box.y1) - np.maximum(y0, box.y0), 0.0, None)
    shared = width * height
    areas = np.clip(x1 - x0, 0.0, None) * np.clip(y1 - y0, 0.0, None)
    iou: NDArray[np.float64] = shared / (areas + (box.x1 - box.x0) * (box.y1 - box.y0) - shared)
    return iou


def _of_the_semantic_mask(
    instances: SliceInstances, prompt: SlicePrompt, settings: InferenceSettings
) -> SliceInstances:
    if instances.semantic is None:
        msg = (
            f"merge={settings.merge}: there is no semantic mask for {prompt.structure!r}; baselines and interactive "
            "prompts have none, use merge=union or merge=best"
        )
        raise UnsupportedPromptError(msg)
    mask, notes = instances.semantic, instances.fallbacks
    if settings.merge is Merge.COMPONENTS:
        parts, count = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    else:
        parts, count = mask.astype(np.int32), int(mask.any())
    numbers = np.arange(1, count + 1)
    limit = max(1, MAX_COMPONENT_PIXELS // mask.size)
    if count > limit:
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        numbers = np.sort(np.argsort(-sizes, kind="stable")[:limit] + 1)
        notes = (*notes, f"instances-capped:{count}>{limit}")
    windows = ndimage.find_objects(parts)
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in (windows[number - 1] for number in numbers)]
    return SliceInstances(
        parts == numbers[:, None, None],
        np.full(len(numbers), instances.presence, dtype=np.float32),
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        mask,
        notes,
        instances.presence,
    )


def _select(instances: SliceInstances, positions: Sequence[int] | NDArray[np.intp]) -> SliceInstances:
    index = np.asarray(positions, dtype=np.intp)
    if len(index) == len(instances.scores):
        return instances  # positions are distinct and in order: all are kept, and masks need no copy
    return instances.at(index)
