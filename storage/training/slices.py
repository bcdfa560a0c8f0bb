"""Cases of the store as training slices: read once, windowed as in inference, kept in memory as uint8."""

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
    """A concept to train: a structure of the recipe, or a union of several.

    Attributes:
        texts: Text prompts, the usual one first.
        structures: Structures of the recipe.
        countable: Has instances.
        window: Own intensity policy; empty for that of the recipe.
    """

    name: str
    texts: tuple[str, ...]
    structures: tuple[str, ...]
    countable: bool = False
    window: str = ""


def recipe_concepts(recipe: Recipe, synonyms: Mapping[str, Sequence[str]]) -> tuple[ConceptDefinition, ...]:
    """Every structure of a recipe as a concept; `synonyms` are further texts per structure.

    Raises:
        UsageError: If a structure of `synonyms` does not exist.
    """
    for name in synonyms:
        recipe.structure(name)
    return tuple(
        ConceptDefinition(
            item.name,
            tuple(dict.fromkeys((item.text, *item.synonyms, *synonyms.get(item.name, ())))),
            (item.name,),
            item.instances,
            item.window,
        )
        for item in recipe.structures
    )


def read_training_slices(
    store: StoreLayout, case: CaseRef, recipe: Recipe, concepts: Sequence[ConceptDefinition], *, every: int = 1
) -> list[TrainingSlice]:
    """Every n-th slice of an accepted case with all concepts.

    Concepts with their own intensity window get their own slices with that window, as in inference.

    Raises:
        CaseDataError: If the case has no reference.
    """
    if not case.raters:
        msg = f"case {case.cohort}/{case.case_id} has no reference to train on; leave it out"
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
    """Labels of a concept, shape (z, y, x): instance numbers if it is countable, else 1."""
    if concept.countable:
        return reference.instances(concept.structures[0])
    labels: NDArray[np.uint16] = np.zeros(reference.voxels.shape, dtype=np.uint16)
    for structure in concept.structures:
        labels[reference.mask(structure)] = 1
    return labels


def _sparing(labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """A copy of the labels that does not hold on to their volume; empty labels take no memory."""
    return labels.copy() if labels.any() else np.broadcast_to(np.uint16(0), labels.shape)
