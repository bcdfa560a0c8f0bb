"""Exports of a run: its predictions as files, one per case."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam3_core.errors import UsageError
from storage.cohorts.cohorts import CaseRef, Cohort, case_refs, latest_cases, read_cohort
from storage.cohorts.volumes import open_case_volume
from storage.exports.claims import LABELS
from storage.exports.label_maps import label_names
from storage.exports.overlays import OverlayCaption
from storage.exports.registry import CaseToWrite, ExportCommand, ExportFormat, format_named
from storage.exports.releases import release
from storage.runs.predictions import open_prediction
from storage.store.atomic import read_json, write_json
from storage.store.layout import StoreLayout
from storage.store.runs import run_ids
from storage.store.schemas import PLAN
from storage.store.tables import read_table

_MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class RunToExport:
    """A run in the store: content of its `run.json`, cohort, and planned structures in the order of the recipe."""

    run_id: str
    facts: dict[str, Any]
    cohort: Cohort
    structures: tuple[str, ...]


def export_run(
    store: StoreLayout, run_id: str, form: str, case_ids: Sequence[str], out: Path
) -> list[tuple[Path, int]]:
    """Write the predictions of a run, one file per case; existing files are replaced.

    `labels.json` beside them names the run and the values of label maps; pictures are captioned.

    Args:
        store: The store.
        run_id: Id of the run, or a unique prefix.
        form: Format by name.
        case_ids: Cases to write; empty for all with a prediction.
        out: Folder; made if absent.

    Returns:
        Path of each file and the number of its contested voxels.

    Raises:
        UsageError: If format, run or case does not exist or has no current prediction; lists what exists.
        CaseDataError: If the format cannot hold a case; gives the reason.
        ReleaseError: If a written file differs when it is read back.
        StoreError: If the store is damaged or `out` cannot be written.
    """
    export_format = format_named(form, ExportCommand.EXPORT)
    run = find_run(store, run_id)
    cases = _chosen_cases(store, run, case_ids)
    if export_format.read is not None:
        _write_labels(run, out)
    return [_export_case(store, run, case, export_format, out) for case in cases]


def find_run(store: StoreLayout, text: str) -> RunToExport:
    """The run whose id begins with `text`.

    Raises:
        UsageError: If there is none or more than one; lists what exists.
    """
    known = run_ids(store)
    found = [run_id for run_id in known if run_id == text] or [run_id for run_id in known if run_id.startswith(text)]
    if len(found) != 1 or not text:
        what = f"run {text!r} could be {_listed(found)}" if found else f"unknown run {text!r}"
        facts_of = {run_id: read_json(store.run_json(run_id)) for run_id in found or known}
        listed = [f"{name} ({one['cohort']}, {one['weights']}, {one['prompt']})" for name, one in facts_of.items()]
        msg = f"{what}; the store has: {_listed(listed) or 'none yet'}"
        raise UsageError(msg)
    facts = read_json(store.run_json(found[0]))
    cohort = read_cohort(store, facts["cohort"])
    planned = set(read_table(store.plan(found[0]), PLAN, columns=["structure"])["structure"].to_pylist())
    known_order = [item[0] for item in facts.get("structures", ())] or [item.name for item in cohort.recipe.structures]
    structures = tuple(name for name in known_order if name in planned)
    return RunToExport(found[0], facts, cohort, structures)


def _chosen_cases(store: StoreLayout, run: RunToExport, case_ids: Sequence[str]) -> list[CaseRef]:
    """The named cases, or all with a prediction."""
    cases = {case.case_id: case for case in case_refs(latest_cases(store, run.cohort.name))}
    predicted = [name for name in cases if store.prediction(run.run_id, name).exists()]
    if unknown := [name for name in case_ids if name not in predicted]:
        msg = f"run {run.run_id} has no prediction of case {unknown[0]!r}; it has: {_listed(predicted)}"
        raise UsageError(msg)
    if not predicted:
        msg = f"run {run.run_id} has no prediction yet; run the same medsam3 benchmark again"
        raise UsageError(msg)
    return [cases[name] for name in dict.fromkeys(case_ids or predicted)]


def _export_case(
    store: StoreLayout, run: RunToExport, case: CaseRef, form: ExportFormat, out: Path
) -> tuple[Path, int]:
    file = store.prediction(run.run_id, case.case_id)
    if open_prediction(file).provenance["case_digest"] != case.case_digest:
        msg = (
            f"case {case.case_id!r} has changed since run {run.run_id} segmented it; run the same medsam3 benchmark "
            "again before exporting it, or name other cases with --case"
        )
        raise UsageError(msg)
    volume = open_case_volume(store.volume(case.cohort, case.case_id, zipped=case.ndim == 2))
    remedy = "restore it from a backup, or name other cases with --case"
    facts = run.facts
    subtitle = f"{facts['weights']}@{facts['weights_version']}   {facts['prompt']}   run {run.run_id}"
    caption = OverlayCaption(f"{case.cohort} / {case.case_id}", subtitle, run.cohort.recipe.window)
    item = CaseToWrite(case.case_id, file, volume, run.structures, remedy, caption=caption)
    released = release(item, form, out)
    return released.path, released.contested


def _write_labels(run: RunToExport, out: Path) -> None:
    """Write `labels.json`; refuse a folder with label maps of another run."""
    path = out / LABELS
    content = {"run_id": run.run_id, **{key: run.facts[key] for key in ("cohort", "weights", "prompt")}}
    if path.exists() and read_json(path).get("run_id") != run.run_id:
        msg = f"{path} belongs to another export ({read_json(path).get('run_id')}); choose another --out"
        raise UsageError(msg)
    write_json(path, {**content, "labels": label_names(run.structures)})


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
