"""Recipes: layout, structures, intensities, splits and licence of a source dataset, as data."""

import hashlib
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from medsam3_core.cases.intensity import IntensityPolicy
from medsam3_core.cases.structures import Structure
from medsam3_core.digests import digest_json
from medsam3_core.errors import UsageError


@dataclass(frozen=True, slots=True)
class SplitRule:
    """Rule for the split of a case, applied once, at ingest, by patient.

    Attributes:
        test_last: The last N patients in sorted order are `test`, the others `train`.
        test_pattern: Patients whose id matches this regular expression are `test`, the others `train`.
        Neither given: the reader's own split, or none.
    """

    test_last: int = 0
    test_pattern: str | None = None

    def __post_init__(self) -> None:
        if self.test_last < 0 or (self.test_last and self.test_pattern):
            msg = f"split rule takes either test_last >= 0 or test_pattern, got {asdict(self)}"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class TrainedWeights:
    """Public weights that were trained on a source dataset.

    Attributes:
        weights: Their public name, see `medsam3_core.public_weights`.
        splits: Splits that they were trained on; empty for the whole dataset.
        evidence: Source of that statement.
    """

    weights: str
    splits: tuple[str, ...] = ()
    evidence: str = ""

    def saw(self, split: str | None) -> bool:
        """True if a case of this split was in the training data; a case without split counts as seen."""
        return not self.splits or split is None or split in self.splits


@dataclass(frozen=True, slots=True)
class Recipe:
    """Description of a source dataset.

    Attributes:
        name: Name of the recipe and of the reader as users write it.
        layout: Layout that lists and reads the files (`image-pairs`, `nifti-pairs`, `msd`, `phantom`, ...).
        structures: Structures in fixed order; the order of label maps in exports.
        modality: `CT`, `MR`, `fundus`, `microscopy`, ...
        window: Intensity policy, see `medsam3_core.cases.intensity`; a structure may have one of its own.
        parameters: Parameters of the layout (patterns, suffixes, label values).
        patient_pattern: Regular expression on the case key; its first group is the patient. None: one patient a case.
        licence: Licence of the data as its authors state it.
        traps: Known traps of this dataset, one sentence each.
        uncertain: Unverified facts about the published layout, one sentence each.
        trained_weights: Public weights known to have been trained on it.
        signature: Regular expression that some path (with the name of the source folder in front) must match for `auto`
            to choose this recipe; None if the patterns of the layout are distinctive.
        companions: Path patterns of files that belong to the published dataset and are neither image nor reference.
        published_cases: Number of cases per split as published (`all` without splits); empty where it varies.
        negatives: True if cases without any structure are expected.
    """

    name: str
    layout: str
    structures: tuple[Structure, ...]
    modality: str
    window: str
    parameters: dict[str, Any] = field(default_factory=dict)
    split: SplitRule = SplitRule()
    patient_pattern: str | None = None
    licence: str = "unknown"
    citation: str = ""
    homepage: str = ""
    traps: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()
    trained_weights: tuple[TrainedWeights, ...] = ()
    signature: str | None = None
    companions: tuple[str, ...] = ()
    published_cases: dict[str, int] = field(default_factory=dict)
    negatives: bool = False

    def __post_init__(self) -> None:
        names = [structure.name for structure in self.structures]
        if len(set(names)) != len(names):
            msg = f"recipe {self.name!r} names a structure twice: {names}"
            raise UsageError(msg)
        IntensityPolicy.parse(self.window)

    def structure(self, name: str) -> Structure:
        """The structure of this name.

        Raises:
            UsageError: If there is none; lists what exists.
        """
        for structure in self.structures:
            if structure.name == name:
                return structure
        known = ", ".join(structure.name for structure in self.structures)
        msg = f"unknown structure {name!r} in recipe {self.name!r}; it has: {known}"
        raise UsageError(msg)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value of the whole recipe; `recipe_from_json` reads it back."""
        return asdict(self)

    def seen_by(self, split: str | None) -> list[str]:
        """Public weights that were trained on a case of this split."""
        return [item.weights for item in self.trained_weights if item.saw(split)]

    @property
    def own_windows(self) -> dict[str, str]:
        """Intensity policies of the structures that have one of their own, by name."""
        return {structure.name: structure.window for structure in self.structures if structure.window}

    def for_digests(self, *, with_references: bool) -> "Recipe":
        """Recipe for digests of cases: without structures if no reference is read, since none can change a number."""
        return self if with_references else replace(self, structures=())

    @property
    def case_part_digest(self) -> str:
        """Digest of the values that can change a number of a case: structures and intensity policy."""
        return digest_json({"structures": [asdict(item) for item in self.structures], "window": self.window})


def recipe_from_json(value: dict[str, Any]) -> Recipe:
    """Inverse of `Recipe.to_json`."""
    structures = tuple(Structure(**{**item, "synonyms": tuple(item["synonyms"])}) for item in value["structures"])
    lists = {key: tuple(value.get(key, ())) for key in ("traps", "uncertain", "companions")}
    trained = tuple(
        TrainedWeights(item["weights"], tuple(item["splits"]), item["evidence"])
        for item in value.get("trained_weights", ())
    )
    split = SplitRule(**value["split"])
    return Recipe(**{**value, "structures": structures, "split": split, "trained_weights": trained, **lists})


def case_digest(image_digest: str, reference_digests: tuple[str, ...], recipe: Recipe) -> str:
    """SHA-256 over image, references (sorted by rater) and the part of the recipe that can change a number."""
    parts = "\n".join((image_digest, *reference_digests, recipe.case_part_digest))
    return hashlib.sha256(parts.encode()).hexdigest()
