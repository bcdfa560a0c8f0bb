"""Training prompts of the concept head: texts, exemplar boxes or both, with targets; absent concepts too."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medsam3_core.errors import UsageError
from medsam3_core.sam3.tensors.tokenizer import VISUAL, clean
from medsam3_core.training.data.samples import TrainingConcept, TrainingPrompt, TrainingSlice

_MAX_FEW = 5
"""Maximum exemplars of "a few", between one and all instances."""
_MIN_PIXELS = 4
"""Smaller parts of an instance at the edge of a view are ignored."""


@dataclass(frozen=True, slots=True)
class ConceptMix:
    """Shares of the kinds of prompts; the first three need not sum to 1.

    Attributes:
        text: Share of prompts by text alone.
        box: Share of prompts by exemplar boxes alone.
        text_box: Share of prompts by text and boxes.
        absent: Share of text prompts for an absent concept, if there is one.
        foreign: Share of those for a concept of another cohort.
        synonym: Share of texts that are a synonym in place of the text of the recipe.
        counter: Share of box prompts with a counter-example around another concept.
        jitter: Maximum shift of an edge of an exemplar, as a share of its side.
    """

    text: float = 0.5
    box: float = 0.35
    text_box: float = 0.15
    absent: float = 0.3
    foreign: float = 0.3
    synonym: float = 0.4
    counter: float = 0.1
    jitter: float = 0.12

    def __post_init__(self) -> None:
        kinds = (self.text, self.box, self.text_box)
        shares = (self.absent, self.foreign, self.synonym, self.counter)
        if min(kinds) < 0 or not sum(kinds) or self.jitter < 0 or not all(0 <= share <= 1 for share in shares):
            msg = (
                "mix needs text, box and text_box of at least 0, not all 0; absent, foreign, synonym and counter in "
                f"[0, 1]; and jitter of at least 0; got {self}"
            )
            raise UsageError(msg)


def texts_of_nothing(
    own: Collection[str],
    of_others: Collection[str],
    words: Collection[str] = (),
    *,
    unlabelled: Collection[str] = (),
    repeat: int = 1,
) -> tuple[str, ...]:
    """Texts of concepts absent from the slices of a cohort, sorted.

    A cohort does not label everything on its slices: a fundus photograph of a vessel cohort has an optic disc, which
    must not be taught as absent. Texts with equal tokens count as one.

    Args:
        own: Texts of the cohort's own concepts, excluded.
        of_others: Texts of the concepts of other cohorts.
        words: Texts of no cohort.
        unlabelled: Parts of texts, in any case, for concepts that may be visible without a label.
        repeat: Copies of each text of other cohorts, so that few texts count against many words.
    """
    kept_out, others = {clean(text) for text in own}, {clean(text) for text in of_others}
    parts = [part.lower() for part in unlabelled]
    return tuple(
        text
        for text in sorted(others.union(map(clean, words)) - kept_out)
        if not any(part in text for part in parts)
        for _ in range(repeat if text in others else 1)
    )


def draw_concept_prompts(
    seen: TrainingSlice,
    slice_index: int,
    count: int,
    rng: np.random.Generator,
    mix: ConceptMix,
    foreign_texts: Sequence[str] = (),
) -> list[TrainingPrompt]:
    """Draw `count` prompts for one augmented slice, at position `slice_index` of the batch.

    `foreign_texts` are texts of concepts that are on no slice of this cohort.
    """
    present = [concept for concept in seen.concepts if _instances(concept)]
    absent = [concept for concept in seen.concepts if not concept.present]
    no_boxes = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)
    no_masks = np.zeros((0, *seen.image.shape[:2]), dtype=bool)
    shares = np.array([mix.text, mix.box, mix.text_box])

    def draw() -> TrainingPrompt:
        kind = int(rng.choice(3, p=shares / shares.sum()))
        if not present or (kind == 0 and (absent or len(foreign_texts)) and rng.random() < mix.absent):
            return TrainingPrompt(slice_index, _absent_text(absent, rng, mix, foreign_texts), *no_boxes, no_masks)
        concept = present[int(rng.integers(len(present)))]
        masks = np.stack([concept.labels == number for number in _instances(concept)])
        if kind == 0:
            return TrainingPrompt(slice_index, _text(concept, rng, mix), *no_boxes, masks)
        boxes, labels = _exemplars(masks, concept.countable, rng, mix.jitter)
        others = [one for one in present if one is not concept]
        if others and rng.random() < mix.counter:
            counter = _counter_example(others[int(rng.integers(len(others)))], masks, rng, mix.jitter)
            if counter is not None:
                boxes, labels = np.concatenate([boxes, counter[None]]), np.append(labels, 0)
        return TrainingPrompt(slice_index, VISUAL if kind == 1 else _text(concept, rng, mix), boxes, labels, masks)

    return [draw() for _ in range(count)]


def _absent_text(
    absent: list[TrainingConcept], rng: np.random.Generator, mix: ConceptMix, foreign_texts: Sequence[str]
) -> str:
    if len(foreign_texts) and (not absent or rng.random() < mix.foreign):
        return str(foreign_texts[int(rng.integers(len(foreign_texts)))])
    if absent:
        return _text(absent[int(rng.integers(len(absent)))], rng, mix)
    return VISUAL  # all present concepts are too small, and no absent text is known


def _text(concept: TrainingConcept, rng: np.random.Generator, mix: ConceptMix) -> str:
    if len(concept.texts) > 1 and rng.random() < mix.synonym:
        return concept.texts[1 + int(rng.integers(len(concept.texts) - 1))]
    return concept.texts[0]


def _instances(concept: TrainingConcept) -> list[int]:
    """Numbers of the instances that are large enough."""
    counts = np.bincount(concept.labels.ravel())
    return [int(number) for number in np.flatnonzero(counts >= _MIN_PIXELS) if number]


def _exemplars(
    masks: NDArray[np.bool_], countable: bool, rng: np.random.Generator, jitter: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes of one, a few or all instances."""
    count = len(masks)
    if countable and count > 1:
        way = int(rng.integers(3))
        count = (1, int(rng.integers(2, _MAX_FEW + 1)), count)[way]
    chosen = rng.permutation(len(masks))[:count]
    boxes = np.stack([_box(masks[index], rng, jitter) for index in chosen])
    return boxes, np.ones(len(boxes), dtype=np.int64)


def _counter_example(
    other: TrainingConcept, masks: NDArray[np.bool_], rng: np.random.Generator, jitter: float
) -> NDArray[np.float32] | None:
    """A box around another concept; None if it overlaps the target."""
    number = _instances(other)[0]
    mask = other.labels == number
    if (mask & masks.any(axis=0)).any():
        return None
    return _box(mask, rng, jitter)


def _box(mask: NDArray[np.bool_], rng: np.random.Generator, jitter: float) -> NDArray[np.float32]:
    """Bounding box of a mask with shifted edges, cxcywh in fractions of the side."""
    edges = []
    for axis, size in ((0, mask.shape[1]), (1, mask.shape[0])):
        hit = np.flatnonzero(mask.any(axis=axis))
        low, high = float(hit[0]), float(hit[-1] + 1)
        reach = jitter * rng.random()
        moves = rng.uniform(-reach, reach, 2) * (high - low)
        low, high = max(0.0, low + moves[0]), min(float(size), high + moves[1])
        edges.append(((low + high) / 2 / size, (high - low) / size))
    (cx, width), (cy, height) = edges
    return np.array([cx, cy, width, height], dtype=np.float32)
