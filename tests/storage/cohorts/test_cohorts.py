from datetime import datetime, timedelta

import pytest

from medsam3_core.cases.cases import CaseStatus
from medsam3_core.errors import UsageError
from medsam3_core.phantoms import PhantomKind, phantom_recipe
from storage.cohorts.cohorts import (
    Cohort,
    as_row,
    case_refs,
    cohort_names,
    latest_cases,
    read_cohort,
    write_cases,
    write_cohort,
)
from storage.store.atomic import read_json
from storage.store.layout import StoreLayout

CT = phantom_recipe(PhantomKind.CT)
START = datetime(2026, 1, 1)


def row(case_id: str, *, minutes: int = 0, **values: object) -> dict[str, object]:
    return {
        "cohort": "ct", "case_id": case_id, "patient_id": case_id, "split": None, "status": "accepted",
        "reason": None, "case_digest": f"digest-{minutes}", "modality": "CT", "ndim": 3, "raters": ["reference"],
        "in_training": [], "ingested_at": START + timedelta(minutes=minutes),
    } | values  # fmt: skip


def test_a_cohort_comes_back_with_its_whole_recipe(store: StoreLayout) -> None:
    cohort = Cohort("ct", CT, ("phantom:ct",))
    write_cohort(store, cohort)
    assert read_cohort(store, "ct") == cohort
    assert cohort_names(store) == ["ct"]


def test_a_second_source_is_added_and_the_same_one_is_not_doubled(store: StoreLayout) -> None:
    for source in ("/a", "/b", "/a"):
        write_cohort(store, Cohort("ct", CT, (source,)))
    assert read_cohort(store, "ct").sources == ("/a", "/b")


def test_another_recipe_for_the_same_cohort_is_refused(store: StoreLayout) -> None:
    write_cohort(store, Cohort("ct", CT, ("/a",)))
    with pytest.raises(UsageError, match="'phantom-ct', not 'phantom-mr'; choose another --cohort"):
        write_cohort(store, Cohort("ct", phantom_recipe(PhantomKind.MR), ("/b",)))


def test_an_unknown_cohort_lists_those_that_exist(store: StoreLayout) -> None:
    with pytest.raises(UsageError, match="unknown cohort 'x'; known: none yet"):
        read_cohort(store, "x")
    write_cohort(store, Cohort("ct", CT, ("/a",)))
    with pytest.raises(UsageError, match="unknown cohort 'x'; known: ct"):
        read_cohort(store, "x")


def test_the_newest_row_of_a_case_wins_in_whatever_order_files_were_written(store: StoreLayout) -> None:
    write_cases(store, "ct", [row("b", minutes=5), row("a")])
    write_cases(store, "ct", [row("b", minutes=1)])
    found = latest_cases(store, "ct")
    assert found["case_id"].tolist() == ["a", "b"]
    assert found["case_digest"].tolist() == ["digest-0", "digest-5"]


def test_rows_become_small_records_with_none_where_a_value_is_missing(store: StoreLayout) -> None:
    write_cases(store, "ct", [row("a"), row("b", split="test", status="rejected", reason="NaN voxels")])
    plain, rejected = case_refs(latest_cases(store, "ct"))
    assert (plain.split, plain.reason, plain.raters) == (None, None, ("reference",))
    assert (rejected.split, rejected.status, rejected.reason) == ("test", CaseStatus.REJECTED, "NaN voxels")
    assert as_row(rejected)["patient_id"] == "b"


def test_the_digest_of_the_case_list_changes_with_a_case_and_not_with_time(store: StoreLayout) -> None:
    cohort = Cohort("ct", CT, ("/a",))

    def digest() -> str:
        write_cohort(store, cohort)
        return str(read_json(store.cohort_json("ct"))["case_list_digest"])

    write_cases(store, "ct", [row("a", case_digest="x")])
    first = digest()
    write_cases(store, "ct", [row("a", minutes=1, case_digest="x")])
    assert digest() == first
    write_cases(store, "ct", [row("a", minutes=2, case_digest="y")])
    assert digest() != first
