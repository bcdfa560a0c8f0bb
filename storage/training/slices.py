"""Cases of the store as training slices: read once, windowed as inference would, kept in memory as uint8."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.intensity import IntensityPolicy, as_rgb, to_uint8
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import LabelMap
from medsam3_core.errors import CaseDataError
from medsam3_core.training.data.samples import TrainingConcept, TrainingSlice
from medsam3_core.training.validation import ValidationCase
from storage.cohorts.cohorts import CaseRef
from storage.cohorts.volumes import open_case_volume
from storage.store.layout import StoreLayout


@dataclass(frozen=True, slots=True)
class ConceptDefinition:
    """A concept that is trained: a structure of the recipe, or several of them together.

    Attributes:
        name: Name of the concept.
        texts: What may be asked for, the usual text first.
        structures: Structures of the recipe that belong to it.
        countable: Whether it comes in instances.
        window: Intensity policy of its own; empty for that of the recipe.
    """

    name: str
    texts: tuple[str, ...]
    structures: tuple[str, ...]
    countable: bool = False
    window: str = ""


def recipe_concepts(
    recipe: Recipe, synonyms: Mapping[str, Sequence[str]] | None = None
) -> tuple[ConceptDefinition, ...]:
    """Every structure of a recipe as a concept.

    Args:
        recipe: The recipe.
        synonyms: Further texts per structure.
    """
    more = synonyms or {}
    for name in more:
        recipe.structure(name)
    return tuple(
        ConceptDefinition(
            item.name,
            tuple(dict.fromkeys((item.text, *item.synonyms, *more.get(item.name, ())))),
            (item.name,),
            item.instances,
            item.window,
        )
        for item in recipe.structures
    )


def read_training_slices(
    store: StoreLayout,
    case: CaseRef,
    recipe: Recipe,
    concepts: Sequence[ConceptDefinition],
    *,
    every: int = 1,
) -> list[TrainingSlice]:
    """Slices of one case with all concepts, as `TrainingSlice`.

    Concepts with an intensity window of their own are on slices of their own, seen through it, as inference would.

    Args:
        store: The store.
        case: An accepted case with a reference.
        recipe: Recipe of its cohort.
        concepts: What is trained.
        every: Every n-th slice.

    Raises:
        CaseDataError: If the case has no reference.
    """
    if not case.raters:
        msg = f"case {case.cohort}/{case.case_id} has no reference to learn from; leave it out"
        raise CaseDataError(msg)
    volume = open_case_volume(store.volume(case.cohort, case.case_id, zipped=case.ndim == 2))
    voxels, reference = volume.voxels(), volume.reference(case.raters[0])
    slices = []
    for window in dict.fromkeys(one.window or recipe.window for one in concepts):
        value_range = IntensityPolicy.parse(window).resolved(volume.modality, volume.dtype).value_range(voxels)
        shown = [one for one in concepts if (one.window or recipe.window) == window]
        maps = [concept_labels(reference, one) for one in shown]
        slices += [
            TrainingSlice(
                as_rgb(to_uint8(voxels[..., z, :, :], value_range)),
                tuple(
                    TrainingConcept(one.name, one.texts, _sparing(labels[z]), one.countable)
                    for one, labels in zip(shown, maps, strict=True)
                ),
                f"{case.cohort}/{case.case_id}:{z}",
            )
            for z in range(0, voxels.shape[-3], every)
        ]
    return slices


def validation_case(store: StoreLayout, case: CaseRef, recipe: Recipe) -> ValidationCase:
    """A case to validate on, its voxels in memory."""
    volume = open_case_volume(store.volume(case.cohort, case.case_id, zipped=case.ndim == 2))
    voxels, reference = volume.voxels(), volume.reference(case.raters[0])

    def slice_of(z: int, window: str) -> NDArray[np.uint8]:
        policy = IntensityPolicy.parse(recipe.window if window == "recipe" else window)
        policy = policy.resolved(volume.modality, volume.dtype)
        return as_rgb(to_uint8(voxels[..., z, :, :], policy.value_range(voxels)))

    return ValidationCase(case.cohort, case.case_id, recipe, volume.geometry, slice_of, reference)


def concept_labels(reference: LabelMap, concept: ConceptDefinition) -> NDArray[np.uint16]:
    """Instances of a concept, shape (z, y, x): numbered where it is countable, else 1 for all of it."""
    if concept.countable:
        return reference.instances(concept.structures[0])
    labels: NDArray[np.uint16] = np.zeros(reference.voxels.shape, dtype=np.uint16)
    for structure in concept.structures:
        labels[reference.mask(structure)] = 1
    return labels


def _sparing(labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The same labels, apart from their volume; where nothing is there, an array that takes no memory."""
    return labels.copy() if labels.any() else np.broadcast_to(np.uint16(0), labels.shape)
