"""Journal of listed cases, so that an interrupted ingest loses none.

The journal is kept until every listed case has its row. A case listed by an interrupted ingest, whose file is missing
when the source is listed again, is still read, fails, and is rejected with its reason.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace

import pyarrow as pa
import pyarrow.compute as pc

from medsam3_core.cases.cases import CaseSource
from storage.cohorts.cohorts import cohort_names
from storage.store.layout import StoreLayout
from storage.store.schemas import CASES
from storage.store.tables import read_file, read_table, table_files, write_rows

_LISTED = pa.schema([("source_root", pa.string()), ("case_id", pa.string()), ("listed", pa.string())])


def note_listed(store: StoreLayout, cohort: str, root: str, cases: Sequence[CaseSource]) -> None:
    """Record the cases that an ingest is about to read; paths that name a patient are left out."""
    if cases:
        rows = [
            {"source_root": root, "case_id": case.case_id, "listed": json.dumps(asdict(_without_names(case)))}
            for case in cases
        ]
        write_rows(store.listed(cohort), rows, _LISTED)


def vanished(store: StoreLayout, cohort: str, root: str, seen: Collection[str]) -> list[CaseSource]:
    """Cases listed by an unfinished ingest of the same source that are not among the case ids `seen`."""
    left = {
        row["case_id"]: row["listed"]
        for row in read_table(store.listed(cohort), _LISTED).to_pylist()
        if row["source_root"] == root and row["case_id"] not in seen
    }
    return [_case(text) for text in left.values()]


def close_journal(store: StoreLayout, cohort: str, root: str) -> None:
    """Remove cases of a source that have their row; keep those of other sources and those beyond a limit."""
    done = read_table(store.cases(cohort), CASES, columns=["case_id"])["case_id"].combine_chunks()
    for path in table_files(store.listed(cohort)):
        rows = read_file(path, _LISTED)
        finished = pc.and_(pc.equal(rows["source_root"], root), pc.is_in(rows["case_id"], value_set=done))
        left = rows.filter(pc.invert(finished))
        if 0 < left.num_rows < rows.num_rows:
            write_rows(store.listed(cohort), left.to_pylist(), _LISTED)  # before removal: no case is ever unlisted
        if left.num_rows < rows.num_rows:
            path.unlink(missing_ok=True)


def is_open(store: StoreLayout, cohort: str) -> bool:
    """True if an ingest of a cohort has listed cases and has not finished: it is running or was interrupted."""
    return bool(table_files(store.listed(cohort)))


def is_ingested(store: StoreLayout, cohort: str) -> bool:
    """True if a cohort has cases and no unfinished ingest."""
    return cohort in cohort_names(store) and not is_open(store, cohort) and bool(table_files(store.cases(cohort)))


def _without_names(case: CaseSource) -> CaseSource:
    """A case without paths that name a patient: enough to reject it should its files disappear."""
    if not case.extra.get("hidden"):
        return case
    shown = case.extra.get("shown", case.case_id)
    gone = f"{shown} was there when an ingest that was interrupted listed it, and is gone since; bring it back"
    return replace(case, image=(), references={}, extra={}, reject_reason=case.reject_reason or gone)


def _case(text: str) -> CaseSource:
    values = json.loads(text)
    references = {rater: tuple(names) for rater, names in values.pop("references").items()}
    return CaseSource(**values | {"image": tuple(values["image"]), "references": references})
