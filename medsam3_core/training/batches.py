"""Batches: order of slices, augmentation and prompts, all from seeds, so that training can resume."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from medsam3_core.training.data.concept_prompts import draw_concept_prompts
from medsam3_core.training.data.interactive_prompts import draw_interactive_prompts
from medsam3_core.training.data.samples import InteractivePrompt, TrainingSlice
from medsam3_core.training.losses.concept_objective import ConceptBatch, concept_batch
from medsam3_core.training.plans import QuestionPlan

Sample = tuple[TrainingSlice, int, tuple[str, ...]]
"""An augmented slice, the seed of its prompts and texts of absent concepts."""
_MAX_ABSENT = 3
"""Maximum absent concepts kept per slice."""


@dataclass(frozen=True, eq=False)
class SliceGroup:
    """Slices of a cohort, with one sampling probability and one augmentation.

    Attributes:
        slices: At least one.
        share: Sampling weight of the group.
        augmentation: Augmentation of its slices.
        foreign_texts: Texts of other groups, asked as absent.
        empty_share: Maximum share of slices without any concept.
    """

    slices: Sequence[TrainingSlice]
    share: float
    augmentation: Augmentation
    foreign_texts: tuple[str, ...] = ()
    empty_share: float = 0.2


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Input of one step.

    Attributes:
        pixels: Shape (slices, 3, side, side), in [-1, 1].
        concept: Prompts of the concept head.
        clicks: Prompts of the interactive head; may be empty.
        seed: Seed of random choices during the step.
    """

    pixels: torch.Tensor
    concept: ConceptBatch
    clicks: tuple[InteractivePrompt, ...]
    seed: int

    def to(self, device: Any, non_blocking: bool = False) -> "TrainingBatch":
        """Copy on another device, for accelerate."""
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=non_blocking),
            concept=self.concept.to(device, non_blocking=non_blocking),
        )


class SampleStream(Dataset[Sample]):
    """Samples by number: index and seed alone determine group, slice, view and prompts."""

    def __init__(self, groups: Sequence[SliceGroup], seed: int, length: int) -> None:
        self._groups = list(groups)
        shares = np.array([group.share for group in groups])
        self._shares = shares / shares.sum()
        self._filled = [_split_by_content(group) for group in groups]
        self._seed = seed
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        """Sample of this number."""
        rng = np.random.default_rng(seed_from("sample", self._seed, index))
        number = int(rng.choice(len(self._groups), p=self._shares))
        group = self._groups[number]
        filled, empty = self._filled[number]
        chosen = empty if len(empty) and (not len(filled) or rng.random() < group.empty_share) else filled
        seen = group.slices[int(chosen[int(rng.integers(len(chosen)))])]
        view = augmented_slice(_thinned(seen, rng), group.augmentation, rng)
        return view, int(rng.integers(2**31)), group.foreign_texts


def _thinned(seen: TrainingSlice, rng: np.random.Generator) -> TrainingSlice:
    """A slice with its present and a few of its absent concepts, since each takes a label map."""
    absent = [number for number, concept in enumerate(seen.concepts) if not concept.present]
    if len(absent) <= _MAX_ABSENT:
        return seen
    dropped = set(rng.permutation(absent)[_MAX_ABSENT:].tolist())
    kept = tuple(concept for number, concept in enumerate(seen.concepts) if number not in dropped)
    return replace(seen, concepts=kept)


class Collate:
    """Turns samples into a batch of tensors."""

    def __init__(
        self, questions: QuestionPlan, side: int, mask_side: int, interactive: bool, vocabulary: str | None
    ) -> None:
        self._questions, self._side, self._mask_side = questions, side, mask_side
        self._interactive = interactive
        self._vocabulary = vocabulary
        self._tokenizer: TextTokenizer | None = None

    def __call__(self, samples: Sequence[Sample]) -> dict[str, TrainingBatch]:
        """Collate."""
        if self._tokenizer is None:  # made in the worker: a tokenizer is large to send
            self._tokenizer = TextTokenizer(self._vocabulary)
        plan = self._questions
        prompts, clicks = [], []
        for index, (seen, seed, foreign) in enumerate(samples):
            rng = np.random.default_rng(seed)
            prompts += draw_concept_prompts(seen, index, plan.per_slice, rng, plan.mix, foreign)
            if self._interactive and rng.random() < plan.click_share:
                clicks += draw_interactive_prompts(seen, index, plan.clicks, rng, plan.click_mix)
        pixels = pixel_values([seen.image for seen, _, _ in samples], self._side)
        batch = concept_batch(prompts, self._tokenizer, self._mask_side)
        return {"batch": TrainingBatch(pixels, batch, tuple(clicks), samples[0][1])}


def _split_by_content(group: SliceGroup) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of slices with and without a concept."""
    holds = np.array([any(concept.present for concept in seen.concepts) for seen in group.slices])
    return np.flatnonzero(holds), np.flatnonzero(~holds)
