"""What a listing promised: kept until every listed case has its row, so that none can vanish between two attempts.

A case that was listed by an ingest that died, and whose file is gone when the next one lists the source, would else be
in nobody's list. With the journal it is read like any other, fails, and is rejected with its reason.
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
    """Note the cases that an ingest is about to read; paths that name a patient are left out."""
    if cases:
        rows = [
            {"source_root": root, "case_id": case.case_id, "listed": json.dumps(asdict(_without_names(case)))}
            for case in cases
        ]
        write_rows(store.listed(cohort), rows, _LISTED)


def vanished(store: StoreLayout, cohort: str, root: str, seen: Collection[str]) -> list[CaseSource]:
    """Cases that an unfinished ingest of the same source had listed and that are not among the case ids `seen`."""
    table = read_table(store.listed(cohort), _LISTED)
    left = {
        row["case_id"]: row["listed"]
        for row in table.to_pylist()
        if row["source_root"] == root and row["case_id"] not in seen
    }
    return [_case(text) for text in left.values()]


def close_journal(store: StoreLayout, cohort: str, root: str) -> None:
    """Forget what was listed of a source and has its row now; other sources, and what lay beyond a limit, stay."""
    done = read_table(store.cases(cohort), CASES, columns=["case_id"])["case_id"].combine_chunks()
    for path in table_files(store.listed(cohort)):
        rows = read_file(path, _LISTED)
        finished = pc.and_(pc.equal(rows["source_root"], root), pc.is_in(rows["case_id"], value_set=done))
        left = rows.filter(pc.invert(finished))
        if 0 < left.num_rows < rows.num_rows:
            write_rows(store.listed(cohort), left.to_pylist(), _LISTED)  # before the file goes: none is ever in none
        if left.num_rows < rows.num_rows:
            path.unlink(missing_ok=True)


def is_open(store: StoreLayout, cohort: str) -> bool:
    """Whether an ingest of a cohort has listed cases and has not ended: it is under way, or it died."""
    return bool(table_files(store.listed(cohort)))


def is_ingested(store: StoreLayout, cohort: str) -> bool:
    """Whether a cohort has cases and no ingest of it was left unfinished."""
    if cohort not in cohort_names(store) or is_open(store, cohort):
        return False
    return bool(table_files(store.cases(cohort)))


def _without_names(case: CaseSource) -> CaseSource:
    """A case whose path names a patient, as it may be written down: enough to reject it if it should vanish."""
    if not case.extra.get("hidden"):
        return case
    shown = case.extra.get("shown", case.case_id)
    gone = f"{shown} was there when an ingest that was interrupted listed it, and is gone since; bring it back"
    return replace(case, image=(), references={}, extra={}, reject_reason=case.reject_reason or gone)


def _case(text: str) -> CaseSource:
    values = json.loads(text)
    references = {rater: tuple(names) for rater, names in values.pop("references").items()}
    return CaseSource(**values | {"image": tuple(values["image"]), "references": references})
