"""Ledger of released files, and the summary of every case's outcome: `manifest.csv` and `measurements.parquet`."""

import csv
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from medsam3_core.cases.cases import CaseStatus
from storage.catalog.queries.runs import current_attempts, current_measurements
from storage.cohorts.cohorts import CaseRef, latest_case_refs, latest_cases
from storage.runs.ledger import Run
from storage.store.atomic import remove, replacing
from storage.store.layout import StoreLayout, utc_now
from storage.store.locations import location
from storage.store.schemas import EXPORTS
from storage.store.tables import read_table, write_rows

MANIFEST = "manifest.csv"
MEASUREMENTS_FILE = "measurements.parquet"
_COLUMNS = ("case_id", "patient_id", "source", "status", "reason", "file")


class ReleaseStatus(StrEnum):
    """Outcome of a release."""

    RELEASED = "released"
    EMPTY = "empty"
    """Nothing was found, and the format has no empty file: done, unless the case is segmented again."""
    FAILED = "failed"
    DAMAGED = "damaged"
    """The prediction in the store cannot be read; the case must be segmented again."""


def release_row(run_id: str, case_id: str, attempt: str, form: str, claim: str, *, anonymous: bool) -> dict[str, Any]:
    """Columns of every row of the table `exports`, for a case that was not released."""
    return {
        "run_id": run_id,
        "case_id": case_id,
        "attempt": attempt,
        "format": form,
        "anonymous": anonymous,
        "claim": claim,
        "status": str(ReleaseStatus.FAILED),
        "path": None,
        "contested": 0,
        "released_at": utc_now(),
    }


def write_releases(store: StoreLayout, run_id: str, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to the table of a run."""
    if rows:
        write_rows(store.exports(run_id), rows, EXPORTS, name=name)


def unreleased(store: StoreLayout, run: Run, form: str, claim: str) -> list[tuple[CaseRef, str]]:
    """Segmented cases whose newest prediction was not released under this claim, with the attempt that made it.

    Empty predictions count as released in formats without an empty file.
    """
    refs = {case.case_id: case for case in latest_case_refs(store, run.cohort)}
    releases = _releases(store, run, form, claim)
    there = {
        key
        for key, row in releases.items()
        if row["status"] == ReleaseStatus.EMPTY or (row["path"] and location(row["path"]).exists())
    }
    segmented = [item for item in current_attempts(store, run.run_id) if item.status == CaseStatus.SEGMENTED]
    return [(refs[item.case_id], item.attempt) for item in segmented if (item.case_id, item.attempt) not in there]


def damaged_predictions(store: StoreLayout, run_id: str) -> set[tuple[str, str]]:
    """Case and attempt of predictions found damaged at their last release."""
    rows = read_table(store.exports(run_id), EXPORTS).sort_by("released_at").to_pylist()
    newest = {(row["case_id"], row["attempt"]): row["status"] for row in rows}
    return {key for key, status in newest.items() if status == ReleaseStatus.DAMAGED}


def write_summary(store: StoreLayout, run: Run, form: str, out: Path, claim: str) -> dict[str, int]:
    """Write `manifest.csv` (one row per case) and `measurements.parquet`; return the number of cases by outcome.

    Released files that the manifest does not list, such as those of older attempts, are removed.
    """
    facts = {row["case_id"]: row for row in latest_cases(store, run.cohort).to_dict("records")}
    releases = _releases(store, run, form, claim)
    counts: dict[str, int] = {}
    listed: set[str] = set()
    outcomes = {item.case_id: item for item in current_attempts(store, run.run_id)}
    with replacing(out / MANIFEST) as scratch, scratch.open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(_COLUMNS)
        for case_id in sorted(outcomes):
            _, status, reason, attempt = outcomes[case_id]
            released = releases.get((case_id, attempt), {})
            file = Path(released["path"]).name if released.get("path") else ""
            listed.add(file)
            if status == CaseStatus.SEGMENTED and released.get("status") == ReleaseStatus.EMPTY:
                status = str(ReleaseStatus.EMPTY)
            ended = "unreleased" if status == CaseStatus.SEGMENTED and not file else status
            counts[ended] = counts.get(ended, 0) + 1
            fact = facts[case_id]
            table.writerow(
                [case_id, fact["patient_id"], fact["source"], status, reason or released.get("reason") or "", file]
            )
    for file in {Path(row["path"]).name for row in releases.values() if row["path"]} - listed:
        remove(out / file)
    with replacing(out / MEASUREMENTS_FILE) as scratch:
        pq.write_table(current_measurements(store, run.run_id), scratch)
    return counts


def _releases(store: StoreLayout, run: Run, form: str, claim: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The newest row of each case and attempt in this format under this claim."""
    table = read_table(store.exports(run.run_id), EXPORTS)
    table = table.filter((pc.field("format") == form) & (pc.field("claim") == claim))
    return {(row["case_id"], row["attempt"]): row for row in table.sort_by("released_at").to_pylist()}
