"""A training configuration as frozen values; the fields are the keys of the YAML file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from medsam3_core.errors import UsageError
from medsam3_core.prompts.policies import PromptPolicy
from medsam3_core.settings.inference import InferenceSettings
from medsam3_core.training.data.augmentation_plan import Augmentation
from medsam3_core.training.data.concept_prompts import ConceptMix
from medsam3_core.training.data.interactive_prompts import PromptMix
from medsam3_core.training.losses.interactive_objective import InteractiveWeights
from medsam3_core.training.losses.losses import LossWeights
from medsam3_core.training.trainees.lora import LoraPlan
from medsam3_core.training.trainees.optimiser import OptimiserPlan

FRESH = "fresh"
"""Base of weights trained from scratch."""


@dataclass(frozen=True, slots=True)
class LoopPlan:
    """Length of a training run, and the composition of a step.

    Attributes:
        steps: Optimiser steps in total.
        batch: Slices per step and process.
        accumulate: Passes per step, summed.
        bf16: True to run the passes in bf16 (on accelerators).
        gradient_checkpointing: Trade time for memory.
        workers: Processes that make samples; 0 for none.
        log_every: Steps between lines of the log.
        save_every: Steps between checkpoints, complete for resuming.
        keep: Checkpoints kept.
    """

    steps: int = 1000
    batch: int = 8
    accumulate: int = 1
    bf16: bool = False
    gradient_checkpointing: bool = False
    workers: int = 1
    log_every: int = 20
    save_every: int = 200
    keep: int = 2

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch, self.accumulate, self.log_every, self.save_every, self.keep)
        if min(counts) < 1 or self.workers < 0:
            msg = f"steps, batch, accumulate, log_every, save_every and keep must be at least 1, workers 0; got {self}"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class UnionPlan:
    """A concept that joins several structures, such as an organ with labelled parts.

    Attributes:
        name: Name of the concept.
        text: Text prompt.
        structures: Structures of the recipe.
        synonyms: Other texts.
    """

    name: str
    text: str
    structures: tuple[str, ...]
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CohortPlan:
    """A training cohort.

    Attributes:
        cohort: Name in the store.
        source: Source to ingest it from if the store does not hold it.
        splits: Splits for training; None means cases without a split.
        share: Sampling weight of the cohort.
        limit: Maximum cases; 0 takes all.
        every: Takes every n-th slice of a volume.
        synonyms: Further texts per structure.
        unions: Further concepts.
        augmentation: Augmentation of slices; the default depends on modality and structures.
        empty_share: Maximum share of slices without any concept.
        validation: Patients held out for validation.
        unlabelled: Parts of texts of concepts that may be visible without a label, such as `optic disc` on photographs
            with labelled vessels; texts of other cohorts with such a part are not asked as absent.
    """

    cohort: str
    source: str | None = None
    splits: tuple[str | None, ...] = ("train",)
    share: float = 1.0
    limit: int = 0
    every: int = 1
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unions: tuple[UnionPlan, ...] = ()
    augmentation: Augmentation | None = None
    empty_share: float = 0.2
    validation: int = 0
    unlabelled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.share <= 0 or self.limit < 0 or self.every < 1 or self.validation < 0:
            msg = (
                f"cohort {self.cohort} needs a share above 0, every of at least 1, limit and validation of at least 0; "
                f"got share {self.share}, every {self.every}, limit {self.limit}, validation {self.validation}"
            )
            raise UsageError(msg)
        if not 0 <= self.empty_share <= 1:
            msg = f"cohort {self.cohort} needs an empty_share in [0, 1], got {self.empty_share}"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class ValidationPlan:
    """Validation during training, by the product's segmenter and scoring.

    Attributes:
        every: Steps between validations; 0 never validates.
        prompts: Policies; the mean over them decides.
        settings: Inference settings as `key=value`.
        patience: Validations without a better mean Dice until training stops; 0 never stops.
    """

    every: int = 0
    prompts: tuple[str, ...] = ("text", "box")
    settings: tuple[str, ...] = ()
    patience: int = 0

    def __post_init__(self) -> None:
        if min(self.every, self.patience) < 0 or (self.every and not self.prompts):
            msg = f"validation needs every and patience of at least 0, and at least one prompt; got {self}"
            raise UsageError(msg)
        self.policies()
        self.inference()

    def policies(self) -> list[PromptPolicy]:
        """The parsed policies."""
        return [PromptPolicy.parse(text) for text in self.prompts]

    def inference(self) -> InferenceSettings:
        """The parsed settings."""
        return InferenceSettings.parse(self.settings)


@dataclass(frozen=True, slots=True)
class QuestionPlan:
    """Prompts drawn per slice.

    Attributes:
        per_slice: Prompts of the concept head per slice.
        mix: Shares of their kinds.
        click_share: Share of slices with prompts for the interactive head, if there is one.
        clicks: Objects per such slice.
        click_mix: Shares of the kinds of their prompts.
        foreign: Texts of no cohort, asked as absent.
        others_repeat: Weight of a text of another cohort, asked as absent, against one of `foreign`.
    """

    per_slice: int = 2
    mix: ConceptMix = field(default_factory=ConceptMix)
    click_share: float = 0.35
    clicks: int = 3
    click_mix: PromptMix = field(default_factory=PromptMix)
    foreign: tuple[str, ...] = ()
    others_repeat: int = 1

    def __post_init__(self) -> None:
        if min(self.per_slice, self.clicks, self.others_repeat) < 1 or not 0 <= self.click_share <= 1:
            msg = f"per_slice, clicks and others_repeat must be at least 1 and click_share in [0, 1]; got {self}"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """One training run.

    Attributes:
        name: Name of the new weights.
        cohorts: Training cohorts.
        base: Weights to start from (`NAME`, `NAME@N` or a path), or `fresh`.
        architecture: Architecture for the base `fresh`; only `small` exists.
        seed: Seed of all random choices.
        loop: Length of the run.
        optimiser: Rates and schedule.
        losses: Loss weights of the concept head.
        click_losses: Loss weights of the interactive head.
        click_weight: Weight of the interactive head against the concept head.
        questions: Prompts per slice.
        validation: Validation during training.
        lora: Train small adapters instead of the weights.
        bare: True to write the layout of Medical-SAM3 too.
        half: True to write the result in bf16, half the size.
        licence: Licence note of the result.
        threads: CPU threads; 0 leaves it to torch.
    """

    name: str
    cohorts: tuple[CohortPlan, ...]
    base: str = FRESH
    architecture: str = "small"
    seed: int = 0
    loop: LoopPlan = field(default_factory=LoopPlan)
    optimiser: OptimiserPlan = field(default_factory=OptimiserPlan)
    losses: LossWeights = field(default_factory=LossWeights)
    click_losses: InteractiveWeights = field(default_factory=InteractiveWeights)
    click_weight: float = 5.0
    questions: QuestionPlan = field(default_factory=QuestionPlan)
    validation: ValidationPlan = field(default_factory=ValidationPlan)
    lora: LoraPlan | None = None
    bare: bool = False
    half: bool = True
    licence: str = ""
    threads: int = 0

    def __post_init__(self) -> None:
        if self.architecture != "small":
            msg = f"architecture must be 'small', got {self.architecture!r}; for another one set base to its weights"
            raise UsageError(msg)
        if self.threads < 0:
            msg = f"threads must be a whole number of at least 0, got {self.threads}"
            raise UsageError(msg)
