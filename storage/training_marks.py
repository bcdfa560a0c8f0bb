"""Which cases weights were trained on, written where every score looks: the case table of their cohort."""

from collections.abc import Sequence

from storage.cohorts import CaseRef, latest_cases, write_cases
from storage.run_ledger import utc_now
from storage.store_layout import StoreLayout


def mark_training_cases(store: StoreLayout, cases: Sequence[CaseRef], sha256: str) -> None:
    """Note the weights with every case that they learned from; doing it twice changes nothing.

    A validation case counts as learned from: the best checkpoint was chosen by it.
    """
    for cohort in sorted({case.cohort for case in cases}):
        wanted = {case.case_id for case in cases if case.cohort == cohort}
        rows = []
        for row in latest_cases(store, cohort).to_dict("records"):
            if row["case_id"] in wanted and sha256 not in list(row["in_training"]):
                seen = [*row["in_training"], sha256]
                rows.append(
                    {str(key): _plain(value) for key, value in row.items()}
                    | {"in_training": seen, "ingested_at": utc_now()}
                )
        write_cases(store, cohort, rows)


def _plain(value: object) -> object:
    """A cell of a data frame as a cell of a row."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return None if value != value else value
