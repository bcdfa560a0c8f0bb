"""Batches: which slice comes when, how it is changed and what is asked; all of it from seeds, so that it can resume."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from medsam3_core.digests import seed_from
from medsam3_core.sam3.tensors.preprocess import pixel_values
from medsam3_core.sam3.tensors.tokenizer import TextTokenizer
from medsam3_core.training.data.augmentation import augmented_slice
from medsam3_core.training.data.augmentation_plan import Augmentation
from medsam3_core.training.data.concept_prompts import ConceptMix, draw_concept_prompts
from medsam3_core.training.data.interactive_prompts import PromptMix, draw_interactive_prompts
from medsam3_core.training.data.samples import InteractivePrompt, TrainingSlice
from medsam3_core.training.losses.concept_objective import ConceptBatch, concept_batch

Sample = tuple[TrainingSlice, int, tuple[str, ...]]
"""An augmented slice, the seed of its prompts and what may be asked as absent."""
_ABSENT_KEPT = 3
"""Concepts that are not on a slice and may be asked for nevertheless."""


@dataclass(frozen=True, eq=False)
class SliceGroup:
    """Slices that are drawn with one probability and changed in one way: those of a cohort.

    Attributes:
        slices: At least one.
        share: How often the group is drawn, against the others.
        augmentation: How its slices are changed.
        foreign_texts: What is asked as absent: texts of other groups.
        empty_share: How often a slice without any concept is drawn, at most.
    """

    slices: Sequence[TrainingSlice]
    share: float
    augmentation: Augmentation
    foreign_texts: tuple[str, ...] = ()
    empty_share: float = 0.2


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """What one step sees.

    Attributes:
        pixels: Shape (slices, 3, side, side), in [-1, 1].
        concept: Prompts of the concept head.
        clicks: Prompts of the interactive head; may be empty.
        seed: For what is decided during the step.
    """

    pixels: torch.Tensor
    concept: ConceptBatch
    clicks: tuple[InteractivePrompt, ...]
    seed: int

    def to(self, device: Any, non_blocking: bool = False) -> "TrainingBatch":
        """On another device, as accelerate asks for it."""
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=non_blocking),
            concept=self.concept.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """How many questions a slice is asked.

    Attributes:
        prompts: Prompts of the concept head per slice.
        mix: Kinds of them.
        click_share: Share of slices that the interactive head sees.
        clicks: Objects of the interactive head per such slice.
        click_mix: How these are shown.
        seed: Decides everything.
    """

    prompts: int = 2
    mix: ConceptMix = field(default_factory=ConceptMix)
    click_share: float = 0.4
    clicks: int = 3
    click_mix: PromptMix = field(default_factory=PromptMix)
    seed: int = 0


class SampleStream(Dataset[Sample]):
    """Sample i is the same whoever asks for it, and when: group, slice, view and prompts follow from i and the seed."""

    def __init__(self, groups: Sequence[SliceGroup], plan: SamplePlan, length: int) -> None:
        self._groups = list(groups)
        shares = np.array([group.share for group in groups])
        self._shares = shares / shares.sum()
        self._filled = [_split_by_content(group) for group in groups]
        self._plan = plan
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        """An augmented slice, the seed of its prompts and what may be asked as absent."""
        rng = np.random.default_rng(seed_from("sample", self._plan.seed, index))
        number = int(rng.choice(len(self._groups), p=self._shares))
        group = self._groups[number]
        filled, empty = self._filled[number]
        chosen = empty if len(empty) and (not len(filled) or rng.random() < group.empty_share) else filled
        seen = group.slices[int(chosen[int(rng.integers(len(chosen)))])]
        view = augmented_slice(_thinned(seen, rng), group.augmentation, rng)
        return view, int(rng.integers(2**31)), group.foreign_texts


def _thinned(seen: TrainingSlice, rng: np.random.Generator) -> TrainingSlice:
    """A slice with what is there and a few of the concepts that are not: each costs a label map."""
    absent = [number for number, concept in enumerate(seen.concepts) if not concept.present]
    if len(absent) <= _ABSENT_KEPT:
        return seen
    dropped = set(rng.permutation(absent)[_ABSENT_KEPT:].tolist())
    kept = tuple(concept for number, concept in enumerate(seen.concepts) if number not in dropped)
    return replace(seen, concepts=kept)


class Collate:
    """Slices of a batch with their prompts, as tensors."""

    def __init__(self, plan: SamplePlan, side: int, mask_side: int, interactive: bool, vocabulary: str | None) -> None:
        self._plan, self._side, self._mask_side = plan, side, mask_side
        self._interactive = interactive
        self._vocabulary = vocabulary
        self._tokenizer: TextTokenizer | None = None

    def __call__(self, samples: Sequence[Sample]) -> dict[str, TrainingBatch]:
        """Collate."""
        if self._tokenizer is None:  # in the process that needs it: a tokenizer is large to send
            self._tokenizer = TextTokenizer(self._vocabulary)
        plan = self._plan
        prompts, clicks = [], []
        for index, (seen, seed, foreign) in enumerate(samples):
            rng = np.random.default_rng(seed)
            prompts += draw_concept_prompts(seen, index, plan.prompts, rng, plan.mix, foreign)
            if self._interactive and rng.random() < plan.click_share:
                clicks += draw_interactive_prompts(seen, index, plan.clicks, rng, plan.click_mix)
        pixels = pixel_values([seen.image for seen, _, _ in samples], self._side)
        batch = concept_batch(prompts, self._tokenizer, self._mask_side)
        return {"batch": TrainingBatch(pixels, batch, tuple(clicks), samples[0][1])}


def _split_by_content(group: SliceGroup) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of slices with and without a concept."""
    holds = np.array([any(concept.present for concept in seen.concepts) for seen in group.slices])
    return np.flatnonzero(holds), np.flatnonzero(~holds)
