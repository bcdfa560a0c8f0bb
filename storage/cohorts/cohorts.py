"""Cohorts in the store: their description (`cohort.json`) and their cases (Parquet, newest row per case wins)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Self

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from medsam3_core.cases.cases import CaseStatus
from medsam3_core.cases.recipes import Recipe, recipe_from_json
from medsam3_core.digests import digest_json
from medsam3_core.errors import UsageError
from storage.store.atomic import read_json, write_json
from storage.store.layout import StoreLayout
from storage.store.schemas import CASES
from storage.store.tables import read_table, statuses_of, write_rows

_ROWS_AT_ONCE = 50_000
_STATUSES = {str(status): status for status in CaseStatus}


@dataclass(frozen=True, slots=True)
class Cohort:
    """The frozen, named list of cases that is scored: one recipe, and source folders in the order of ingest."""

    name: str
    recipe: Recipe
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CaseRef:
    """A case as units of work carry it; small and picklable.

    Attributes:
        case_digest: Digest of image, references and recipe part.
        patient_id: Cluster for statistics.
        ndim: 2 for one slice, else 3.
        status: Accepted or rejected.
        reason: Reason of a rejection.
        raters: Raters with a reference, the primary one first.
        in_training: Weights that were trained on it.
    """

    cohort: str
    case_id: str
    case_digest: str
    patient_id: str
    split: str | None
    modality: str
    ndim: int
    status: CaseStatus
    reason: str | None
    raters: tuple[str, ...]
    in_training: tuple[str, ...] = ()

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Build from a row of the case table."""
        known = {name: row[name] for name in ("cohort", "case_id", "case_digest", "patient_id", "modality")}
        return cls(
            **known,
            split=row["split"] if isinstance(row["split"], str) else None,
            ndim=int(row["ndim"]),
            status=CaseStatus(row["status"]),
            reason=row["reason"] if isinstance(row["reason"], str) else None,
            raters=tuple(row["raters"]),
            in_training=tuple(row["in_training"]),
        )


def write_cohort(store: StoreLayout, cohort: Cohort) -> None:
    """Write `cohort.json`; a second ingest into a cohort adds its source.

    Raises:
        UsageError: If the cohort exists with another recipe; names both.
    """
    path = store.cohort_json(cohort.name)
    if path.exists():
        known = read_cohort(store, cohort.name)
        if known.recipe.to_json() != cohort.recipe.to_json() and known.recipe.name != cohort.recipe.name:
            msg = (
                f"cohort {cohort.name!r} was ingested with the recipe {known.recipe.name!r}, not "
                f"{cohort.recipe.name!r}; choose another --cohort"
            )
            raise UsageError(msg)
        cohort = replace(cohort, sources=tuple(dict.fromkeys((*known.sources, *cohort.sources))))
    frame = latest_cases(store, cohort.name, ["case_digest"])
    write_json(
        path,
        {
            "name": cohort.name,
            "sources": list(cohort.sources),
            "licence": cohort.recipe.licence,
            "reader": cohort.recipe.layout,
            "recipe": cohort.recipe.to_json(),
            "cases": len(frame),
            "case_list_digest": digest_json(sorted(zip(frame["case_id"], frame["case_digest"], strict=True))),
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def read_cohort(store: StoreLayout, name: str) -> Cohort:
    """A cohort by name.

    Raises:
        UsageError: If it does not exist; lists the known ones.
    """
    path = store.cohort_json(name)
    if not path.exists():
        known = ", ".join(cohort_names(store)) or "none yet"
        msg = f"unknown cohort {name!r}; known: {known}; make one with: medsam3 ingest SOURCE --cohort {name}"
        raise UsageError(msg)
    value = read_json(path)
    return Cohort(value["name"], recipe_from_json(value["recipe"]), tuple(value["sources"]))


def cohort_names(store: StoreLayout) -> list[str]:
    """All cohorts of the store, sorted."""
    return sorted(path.parent.name for path in store.cohorts().glob("[!.]*/cohort.json"))


def write_cases(store: StoreLayout, cohort: str, rows: Sequence[Mapping[str, Any]], *, name: str | None = None) -> None:
    """Add rows of `storage.store.schemas.CASES`; a newer row of a case replaces the older one in every view.

    `name` is the name of the file where writing twice must give the same file.
    """
    if rows:
        write_rows(store.cases(cohort), rows, CASES, name=name)


def committed_cases(store: StoreLayout, cohort: str, name: str) -> dict[str, str]:
    """Case ids and statuses of the rows written under this file name; empty without such a file."""
    return statuses_of(store.cases(cohort), name, CASES)


def latest_cases(store: StoreLayout, cohort: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Newest row of every case, sorted by case_id, with some or all columns of `storage.store.schemas.CASES`."""
    wanted = list(dict.fromkeys(("case_id", "ingested_at", *columns))) if columns else None
    frame: pd.DataFrame = read_table(store.cases(cohort), CASES, columns=wanted).to_pandas()
    newest = frame.sort_values("ingested_at", kind="stable").drop_duplicates("case_id", keep="last")
    return newest.sort_values("case_id").reset_index(drop=True)


def latest_rejections(store: StoreLayout, cohort: str) -> dict[str, dict[str, Any]]:
    """Case id to its newest rejection, even if other rows followed, with the columns that an ingest compares."""
    columns = ["case_id", "ingested_at", "status", "case_digest", "modality", "raters", "in_training"]
    table = read_table(store.cases(cohort), CASES, columns=columns)
    rows = table.filter(pc.equal(table["status"], str(CaseStatus.REJECTED))).sort_by("ingested_at").to_pylist()
    return {row["case_id"]: row for row in rows}


def latest_case_refs(store: StoreLayout, cohort: str) -> list[CaseRef]:
    """Newest row of every case as `CaseRef`, sorted by case_id; a million cases take little memory."""
    names = [item.name for item in fields(CaseRef)]
    table = read_table(store.cases(cohort), CASES, columns=[*names, "ingested_at"])
    table = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    order = [(name, "ascending") for name in ("case_id", "ingested_at", "row")]
    table = table.take(pc.sort_indices(table, order))
    found: list[CaseRef] = []
    shared: dict[Any, Any] = {}
    for batch in table.select(names).to_batches(_ROWS_AT_ONCE):
        columns = {name: batch.column(name).to_pylist() for name in names}
        for name in ("cohort", "split", "modality", "reason"):
            columns[name] = [shared.setdefault(value, value) for value in columns[name]]
        for name in ("raters", "in_training"):
            columns[name] = [shared.setdefault(key, key) for value in columns[name] for key in (tuple(value or ()),)]
        columns["status"] = [_STATUSES[value] for value in columns["status"]]
        for values in zip(*columns.values(), strict=True):
            case = CaseRef(*values)
            if found and found[-1].case_id == case.case_id:
                found[-1] = case
            else:
                found.append(case)
    return found


def case_refs(frame: pd.DataFrame) -> list[CaseRef]:
    """Rows of the case table as `CaseRef`, in the order of the frame."""
    return [CaseRef.from_row({str(key): value for key, value in row.items()}) for row in frame.to_dict("records")]


def as_row(case: CaseRef) -> dict[str, Any]:
    """Columns of a case that score rows repeat."""
    names = ("cohort", "case_id", "case_digest", "patient_id", "split", "modality", "ndim")
    return {name: getattr(case, name) for name in names}
