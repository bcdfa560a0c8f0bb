"""Which weights were trained on which cases: what recipes note, and what our own training manifests list.

Public weights are noted at ingest, from the recipe. Our own are marked here, when they have been trained: every score
of theirs on a marked case is `in_training`, counted on the leaderboard and left out of its means.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.cohorts import write_cases
from storage.parquet_tables import read_table
from storage.run_ledger import utc_now
from storage.store_layout import StoreLayout
from storage.table_schemas import CASES

_CASES_OF_MANIFEST = pa.schema([pa.field("cohort", pa.string()), pa.field("case_id", pa.string())])


def mark_manifest(store: StoreLayout, weights_sha256: str, manifest: Path) -> int:
    """Mark every case that a training manifest lists, validation cases too: they chose the weights.

    Args:
        store: The store.
        weights_sha256: Identity of the trained weights.
        manifest: Folder of Parquet files with the columns `cohort` and `case_id`.

    Returns:
        Number of cases that were not marked before.
    """
    listed: dict[str, set[str]] = {}
    for row in read_table(manifest, _CASES_OF_MANIFEST).to_pylist():
        listed.setdefault(row["cohort"], set()).add(row["case_id"])
    return mark_trained_cases(store, weights_sha256, listed)


def mark_trained_cases(store: StoreLayout, weights_sha256: str, cases: Mapping[str, Iterable[str]]) -> int:
    """Mark cases, by cohort, as seen by weights; marking twice is marking once.

    Returns:
        Number of cases that were not marked before.
    """
    marked = 0
    for cohort, case_ids in cases.items():
        wanted = set(case_ids)
        newest: dict[str, dict[str, Any]] = {}
        for row in read_table(store.cases(cohort), CASES).sort_by("ingested_at").to_pylist():
            newest[row["case_id"]] = row
        rows = [
            {**row, "in_training": [*row["in_training"], weights_sha256], "ingested_at": utc_now()}
            for case_id, row in newest.items()
            if case_id in wanted and weights_sha256 not in row["in_training"]
        ]
        write_cases(store, cohort, rows)
        marked += len(rows)
    return marked
