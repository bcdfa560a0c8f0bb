"""Exports: predictions of a run as NIfTI label maps for other tools, or as PNG overlays for people.

A label map holds one value per voxel, a prediction may hold several structures there: a contested voxel goes to the
structure with the higher score (at equal scores to the one that comes first in the recipe) and is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.geometry import LengthUnit
from medsam3_core.errors import UsageError
from storage.cohorts.cohorts import CaseRef, Cohort, case_refs, latest_cases, read_cohort
from storage.cohorts.volumes import StoredVolume, open_case_volume
from storage.exports.overlays import OverlayCaption, draw_overlay
from storage.runs.predictions import StoredPrediction, open_prediction
from storage.store.atomic import read_json, replacing, write_json
from storage.store.layout import StoreLayout
from storage.store.runs import run_ids
from storage.store.schemas import PLAN
from storage.store.tables import read_table

_MOST_LISTED = 20


class ExportForm(StrEnum):
    """What is written."""

    NIFTI = "nifti"
    PNG = "png"


@dataclass(frozen=True, slots=True)
class RunToExport:
    """A run in the store.

    Attributes:
        run_id: Its id.
        facts: What `run.json` says.
        cohort: Its cohort.
        structures: All structures that were planned, in the order of the recipe: values 1..n of label maps.
    """

    run_id: str
    facts: dict[str, Any]
    cohort: Cohort
    structures: tuple[str, ...]


def export_run(
    store: StoreLayout, run_id: str, form: str, case_ids: Sequence[str], out: Path
) -> list[tuple[Path, int]]:
    """Write the predictions of a run, one file per case; an older file of the same name is replaced.

    NIfTI label maps lie exactly as the source does; `labels.json` beside them names their values.

    Args:
        store: The store.
        run_id: Id of the run, or its beginning where that is unique.
        form: A value of `ExportForm`.
        case_ids: These cases; empty means all that have a prediction.
        out: Folder; made if absent.

    Returns:
        Path of each file and how many of its voxels two structures claimed.

    Raises:
        UsageError: If run or case does not exist or has no current prediction; lists what exists.
        StoreError: If the store is damaged or `out` cannot be written.
    """
    export_form = ExportForm(form)
    run = find_run(store, run_id)
    cases = _chosen_cases(store, run, case_ids)
    if export_form is ExportForm.NIFTI:
        _write_labels(run, out)
    return [_export_case(store, run, case, export_form, out) for case in cases]


def find_run(store: StoreLayout, text: str) -> RunToExport:
    """The run whose id begins with `text`.

    Raises:
        UsageError: If there is none or more than one; lists what exists.
    """
    known = run_ids(store)
    found = [run_id for run_id in known if run_id == text] or [run_id for run_id in known if run_id.startswith(text)]
    if len(found) != 1 or not text:
        what = f"run {text!r} could be {_listed(found)}" if found else f"unknown run {text!r}"
        listed = [_described(run_id, read_json(store.run_json(run_id))) for run_id in found or known]
        msg = f"{what}; the store has: {_listed(listed) if listed else 'none yet'}"
        raise UsageError(msg)
    facts = read_json(store.run_json(found[0]))
    cohort = read_cohort(store, facts["cohort"])
    planned = set(read_table(store.plan(found[0]), PLAN, columns=["structure"])["structure"].to_pylist())
    known_order = [item[0] for item in facts.get("structures", ())] or [item.name for item in cohort.recipe.structures]
    structures = tuple(name for name in known_order if name in planned)
    return RunToExport(found[0], facts, cohort, structures)


def merge_structures(
    prediction: StoredPrediction, structures: Sequence[str]
) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], int]:
    """One label map (z, y, x) of all structures, value n for the n-th; and the number of contested voxels."""
    shape = prediction.geometry().shape_zyx
    values = np.zeros(shape, dtype=np.uint8 if len(structures) < 256 else np.uint16)
    best = np.zeros(shape, dtype=np.float32)
    contested = np.zeros(shape, dtype=bool)
    for value, structure in enumerate(structures, start=1):
        if structure not in prediction.structures:
            continue
        labels = prediction.labels(structure)
        drawn = labels > 0
        scores = np.array([0.0, *prediction.scores(structure)], dtype=np.float32)[labels]
        contested |= drawn & (values > 0)
        taken = drawn & ((values == 0) | (scores > best))
        values[taken] = value
        best[taken] = scores[taken]
    return values, int(contested.sum())


def _chosen_cases(store: StoreLayout, run: RunToExport, case_ids: Sequence[str]) -> list[CaseRef]:
    """Cases with a prediction that was made from the case as it is now."""
    cases = {case.case_id: case for case in case_refs(latest_cases(store, run.cohort.name))}
    predicted = [name for name in cases if store.prediction(run.run_id, name).exists()]
    if unknown := [name for name in case_ids if name not in predicted]:
        msg = f"run {run.run_id} has no prediction of case {unknown[0]!r}; it has: {_listed(predicted)}"
        raise UsageError(msg)
    if not predicted:
        msg = f"run {run.run_id} has no prediction yet; run the same medsam3 benchmark again"
        raise UsageError(msg)
    return [cases[name] for name in dict.fromkeys(case_ids or predicted)]


def _export_case(store: StoreLayout, run: RunToExport, case: CaseRef, form: ExportForm, out: Path) -> tuple[Path, int]:
    prediction = open_prediction(store.prediction(run.run_id, case.case_id))
    if prediction.provenance["case_digest"] != case.case_digest:
        msg = (
            f"case {case.case_id!r} has changed since run {run.run_id} segmented it; run the same medsam3 benchmark "
            "again before exporting it, or name other cases with --case"
        )
        raise UsageError(msg)
    volume = open_case_volume(store.volume(case.cohort, case.case_id, zipped=case.ndim == 2))
    values, contested = merge_structures(prediction, run.structures)
    if form is ExportForm.NIFTI:
        target = out / f"{case.case_id}.nii.gz"
        _write_nifti(target, values, volume)
    else:
        target = out / f"{case.case_id}.png"
        rater = case.raters[0] if case.raters else None
        drawn = draw_overlay(volume, prediction, run.structures, rater, _caption(run, case))
        with replacing(target) as scratch:
            drawn.save(scratch, format="PNG")
    return target, contested


def _write_nifti(target: Path, values: NDArray[Any], volume: StoredVolume) -> None:
    with replacing(target) as scratch:
        nib.save(nifti_image(values, volume), scratch)


def nifti_image(values: NDArray[Any], volume: StoredVolume) -> nib.Nifti1Image:
    """Array back in NIfTI's order (x, y, z); header with the source's affine as sform and, where it can, as qform.

    The numbers and the unit of the affine are those of the source.
    """
    affine = volume.nifti_affine
    image = nib.Nifti1Image(np.ascontiguousarray(values.transpose(2, 1, 0)), affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    tolerance = 1e-3 / volume.nifti_unit.millimetres
    if not np.allclose(image.get_qform(), affine, atol=tolerance):  # a qform cannot say shear
        image.header["qform_code"] = 0
    if volume.geometry.unit is LengthUnit.MILLIMETRE:
        image.header.set_xyzt_units(xyz=str(volume.nifti_unit))
    return image


def _write_labels(run: RunToExport, out: Path) -> None:
    """Names of the values; another run's label maps in the same folder would get the wrong names: refused."""
    path = out / "labels.json"
    names = {"background": 0, **{name: value for value, name in enumerate(run.structures, start=1)}}
    content = {"run_id": run.run_id, **{key: run.facts[key] for key in ("cohort", "weights", "prompt")}}
    if path.exists() and read_json(path).get("run_id") != run.run_id:
        msg = f"{path} belongs to another export ({read_json(path).get('run_id')}); choose another --out"
        raise UsageError(msg)
    write_json(path, {**content, "labels": names})


def _caption(run: RunToExport, case: CaseRef) -> OverlayCaption:
    facts = run.facts
    title = f"{facts['weights']}@{facts['weights_version']}   {facts['prompt']}   run {run.run_id}"
    return OverlayCaption(f"{case.cohort} / {case.case_id}", title, run.cohort.recipe.window)


def _described(run_id: str, facts: dict[str, Any]) -> str:
    return f"{run_id} ({facts['cohort']}, {facts['weights']}, {facts['prompt']})"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more
