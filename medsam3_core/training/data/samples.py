"""Training samples: slices with their reference, and prompts.

Augmentation turns a stored `TrainingSlice` of any size into a square one. Prompts are drawn afterwards, so that boxes
and points fit the augmented masks.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TrainingConcept:
    """One concept of the cohort on one slice; absent concepts are kept as negatives.

    Attributes:
        name: Stable name of the structure.
        texts: Text of the recipe, then its synonyms.
        labels: uint16, shape (y, x): 0 background, 1..n instances; a structure without instances is 1.
        countable: True if the concept has instances (nuclei); else it is one object per slice.
    """

    name: str
    texts: tuple[str, ...]
    labels: NDArray[np.uint16]
    countable: bool = False

    @property
    def present(self) -> bool:
        """True if any pixel belongs to the concept."""
        return bool(self.labels.any())


@dataclass(frozen=True, eq=False)
class TrainingSlice:
    """A slice and all concepts of its cohort.

    Attributes:
        image: uint8, shape (y, x, 3), windowed as in inference.
        concepts: In the order of the recipe; their label maps have the shape of the image.
        source: `cohort/case_id:z`, for messages.
    """

    image: NDArray[np.uint8]
    concepts: tuple[TrainingConcept, ...]
    source: str = ""


@dataclass(frozen=True, eq=False)
class TrainingPrompt:
    """One prompt of the concept head on one slice of a batch, with its target.

    Attributes:
        slice_index: Position of the slice in the batch.
        text: Text prompt; `visual` for boxes alone.
        boxes_cxcywh: Exemplars in fractions of the square, shape (k, 4); k may be 0.
        box_labels: 1 for an exemplar, 0 for a counter-example, shape (k,).
        masks: Boolean, shape (n, side, side): every instance; n = 0 for an absent concept.
    """

    slice_index: int
    text: str
    boxes_cxcywh: NDArray[np.float32]
    box_labels: NDArray[np.int64]
    masks: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class InteractivePrompt:
    """Clicks, a box or a drawn mask on one slice of a batch, with their object.

    Attributes:
        slice_index: Position of the slice in the batch.
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
