"""What training looks at: a slice with everything the reference knows about it.

A slice goes through three states: as the store holds it (any size), as the model sees it (augmented, a square), and
asked (one or more prompts with what they should find). Augmentation maps `TrainingSlice` to `TrainingSlice`; prompts
are drawn afterwards, so that boxes and points always fit the augmented masks.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TrainingConcept:
    """One concept of the cohort on one slice; concepts that are not there are kept, as negatives.

    Attributes:
        name: Stable name of the structure.
        texts: What may be asked for: the text of the recipe first, then its synonyms.
        labels: uint16, shape (y, x): 0 background, 1..n instances; a structure without instances is 1.
        countable: Whether the concept comes in instances (nuclei); else it is one object per slice.
    """

    name: str
    texts: tuple[str, ...]
    labels: NDArray[np.uint16]
    countable: bool = False

    @property
    def present(self) -> bool:
        """Whether any pixel belongs to the concept."""
        return bool(self.labels.any())


@dataclass(frozen=True, eq=False)
class TrainingSlice:
    """A slice and all concepts of its cohort.

    Attributes:
        image: uint8, shape (y, x, 3), windowed as inference would.
        concepts: In the order of the recipe; their label maps have the shape of the image.
        source: `cohort/case_id:z`, for messages.
    """

    image: NDArray[np.uint8]
    concepts: tuple[TrainingConcept, ...]
    source: str = ""


@dataclass(frozen=True, eq=False)
class TrainingPrompt:
    """One question about one slice of a batch, with its answer.

    Attributes:
        slice_index: Which slice of the batch.
        text: What is asked; `visual` where boxes alone ask.
        boxes_cxcywh: Exemplars in fractions of the square, shape (k, 4); k may be 0.
        box_labels: 1 for an exemplar, 0 for a counter-example, shape (k,).
        masks: Boolean, shape (n, side, side): every instance that should be found; n = 0 for an absent concept.
    """

    slice_index: int
    text: str
    boxes_cxcywh: NDArray[np.float32]
    box_labels: NDArray[np.int64]
    masks: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class InteractivePrompt:
    """One click, box or drawn mask on one slice of a batch, with the one object that it means.

    Attributes:
        slice_index: Which slice of the batch.
        mask: Boolean, shape (side, side): the object.
        points_xy: Pixels of the square, shape (k, 2); corners of a box first.
        point_labels: 1 inside, 0 outside, 2 and 3 the corners of a box, shape (k,).
        mask_input: A drawn mask, boolean (side, side), or None.
    """

    slice_index: int
    mask: NDArray[np.bool_]
    points_xy: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), dtype=np.float32))
    point_labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    mask_input: NDArray[np.bool_] | None = None
