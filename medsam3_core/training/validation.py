"""Validation during training: the current weights as a segmenter, prompted and scored as in a benchmark."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import LabelMap
from medsam3_core.inference.slices import SliceLoader
from medsam3_core.inference.volumes import VolumeRequest, segment_volumes
from medsam3_core.metrics.scoring import EmptyMask, score_structure
from medsam3_core.prompts.generation import generate_prompts
from medsam3_core.prompts.policies import PromptPolicy
from medsam3_core.prompts.rows import slice_prompts
from medsam3_core.sam3.segmenter import Sam3Segmenter
from medsam3_core.settings.inference import InferenceSettings


@dataclass(frozen=True, eq=False)
class ValidationCase:
    """A held-out case with its primary reference; `slices` loads slices as in inference."""

    cohort: str
    case_id: str
    recipe: Recipe
    geometry: VolumeGeometry
    slices: SliceLoader
    reference: LabelMap


@dataclass(frozen=True, slots=True)
class _Score:
    cohort: str
    prompt: str
    dice: float | None
    f1: float | None
    absent_correct: bool | None


def validate(
    segmenter: Sam3Segmenter,
    cases: Iterable[ValidationCase],
    policies: Sequence[PromptPolicy],
    settings: InferenceSettings,
) -> dict[str, float]:
    """Mean Dice over pairs of cohort and policy, and its parts.

    Returns:
        `dice`, and per cohort and policy `dice_<cohort>_<policy>`; `absent_correct`, the share of absent structures
        with an empty prediction; `f1_<cohort>_<policy>` for structures with instances.
    """
    scores = [score for case in cases for score in _scores(segmenter, case, policies, settings)]
    found: dict[str, float] = {}
    for name, pick in (("dice", lambda one: one.dice), ("f1", lambda one: one.f1)):
        for cohort, prompt in sorted({(one.cohort, one.prompt) for one in scores}):
            values = [pick(one) for one in scores if (one.cohort, one.prompt) == (cohort, prompt)]
            if known := [value for value in values if value is not None]:
                found[f"{name}_{cohort}_{prompt}"] = float(np.mean(known))
    parts = [value for key, value in found.items() if key.startswith("dice_")]
    found["dice"] = float(np.mean(parts)) if parts else 0.0
    if absent := [one.absent_correct for one in scores if one.absent_correct is not None]:
        found["absent_correct"] = float(np.mean(absent))
    return found


def _scores(
    segmenter: Sam3Segmenter, case: ValidationCase, policies: Sequence[PromptPolicy], settings: InferenceSettings
) -> list[_Score]:
    shape, structures = case.geometry.shape_zyx, case.recipe.structures
    texts = {structure.name: structure.text for structure in structures}
    prompts, by_prompt = {}, {}
    for policy in policies:
        if policy.lacking(segmenter.capabilities):
            continue
        made = generate_prompts(
            policy, policy.prompt_id(texts), case.case_id, case.reference, case.geometry, structures
        )
        prompts[policy.canonical()] = slice_prompts(made.rows, shape[1:])
        by_prompt[policy.canonical()] = policy
    request = VolumeRequest(
        case.slices,
        case.geometry,
        prompts,
        dict.fromkeys(prompts, settings),
        [structure.name for structure in structures],
        windows=case.recipe.own_windows,
    )
    (answers,) = segment_volumes(segmenter, [request])
    scores = []
    for name, answer in answers.items():
        for structure in structures:
            labels = answer.labels(structure.name)
            score = score_structure(
                case.reference.mask(structure.name),
                labels > 0,
                case.geometry,
                structure=structure,
                reference_instances=case.reference.instances(structure.name) if structure.instances else None,
                prediction_instances=labels if structure.instances else None,
            )
            present = score.empty in (EmptyMask.NONE, EmptyMask.PREDICTION)
            asked_blindly = not by_prompt[name].privileged
            scores.append(
                _Score(
                    case.cohort,
                    by_prompt[name].short(),
                    score.metrics["dice"] if present else None,
                    score.metrics["instance_f1"] if present else None,
                    score.empty is EmptyMask.BOTH if not present and asked_blindly else None,
                )
            )
    return scores
