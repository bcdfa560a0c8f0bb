"""Everything that a training configuration says, as frozen values; the keys of the YAML file are these fields."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from medsam3_core.errors import UsageError
from medsam3_core.prompts.policies import PromptPolicy
from medsam3_core.settings.inference import InferenceSettings
from medsam3_core.training.data.augmentation_plan import Augmentation
from medsam3_core.training.data.concept_prompts import ConceptMix
from medsam3_core.training.data.interactive_prompts import PromptMix
from medsam3_core.training.fit_plan import LoopPlan
from medsam3_core.training.losses.interactive_objective import InteractiveWeights
from medsam3_core.training.losses.losses import LossWeights
from medsam3_core.training.trainees.lora import LoraPlan
from medsam3_core.training.trainees.optimiser import OptimiserPlan

FRESH = "fresh"
"""The base of weights that are trained from nothing."""


@dataclass(frozen=True, slots=True)
class UnionPlan:
    """A concept that is several structures together, such as a whole organ whose parts are labelled.

    Attributes:
        name: Name of the concept.
        text: What is asked for.
        structures: Structures of the recipe.
        synonyms: Other texts.
    """

    name: str
    text: str
    structures: tuple[str, ...]
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CohortPlan:
    """A cohort to learn from.

    Attributes:
        cohort: Name in the store.
        source: Where to ingest it from if the store does not hold it yet.
        splits: Splits that are learned from; None means cases without a split.
        share: How often it is drawn, against the others.
        limit: At most so many cases; 0 takes all.
        every: Every n-th slice of a volume.
        synonyms: Further texts per structure.
        unions: Further concepts.
        augmentation: How slices are changed; by default as the modality and the structures allow.
        empty_share: How often a slice without any concept is drawn, at most.
        validation: Patients whose cases are kept back for validation; they are not learned from.
        unlabelled: Parts of texts for what its slices may show without a label, such as `optic disc` on photographs
            whose vessels alone are labelled: texts of others with such a part are not asked as absent.
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
    """How a model is measured while it learns: by the product's own segmenter and scoring.

    Attributes:
        every: Steps from one validation to the next; 0 never validates.
        prompts: Policies; the mean over them decides.
        settings: Inference settings as `key=value`.
        patience: Validations without a better mean Dice after which training stops; 0 never stops.
    """

    every: int = 0
    prompts: tuple[str, ...] = ("text", "box")
    settings: tuple[str, ...] = ()
    patience: int = 0

    def __post_init__(self) -> None:
        if min(self.every, self.patience) < 0 or (self.every and not self.prompts):
            msg = f"validation needs every and patience of at least 0 and a prompt to ask; got {self}"
            raise UsageError(msg)
        self.policies()
        self.inference()

    def policies(self) -> list[PromptPolicy]:
        """The policies, read."""
        return [PromptPolicy.parse(text) for text in self.prompts]

    def inference(self) -> InferenceSettings:
        """The settings, read."""
        return InferenceSettings.parse(self.settings)


@dataclass(frozen=True, slots=True)
class QuestionPlan:
    """What is asked about a slice.

    Attributes:
        per_slice: Prompts of the concept head per slice.
        mix: Kinds of them.
        click_share: Share of slices that the interactive head sees, where there is one.
        clicks: Objects per such slice.
        click_mix: How they are shown.
        foreign: Texts that no cohort has, asked as absent.
        others_repeat: How often a text of another cohort is asked as absent, against one of `foreign`.
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
        name: Name of the weights to be.
        cohorts: What is learned from.
        base: Weights to start from (`NAME`, `NAME@N` or a path), or `fresh`.
        architecture: What is built where the base is `fresh`; there is `small` alone.
        seed: Decides all that is left to chance.
        loop: How long.
        optimiser: Rates and schedule.
        losses: How much each loss of the concept head counts.
        click_losses: The same for the interactive head.
        click_weight: How much the interactive head counts against the concept head.
        questions: What is asked.
        validation: How the model is measured meanwhile.
        lora: Train small adapters instead of the weights themselves.
        bare: Whether the layout of Medical-SAM3 is written too.
        half: Whether the result is written in bf16, half the size.
        licence: Licence note of the result.
        threads: Threads of the CPU; 0 leaves it to torch.
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
            msg = f"architecture takes 'small', got {self.architecture!r}; other architectures come with a base"
            raise UsageError(msg)
        if self.threads < 0:
            msg = f"threads takes a whole number of at least 0, got {self.threads}"
            raise UsageError(msg)
