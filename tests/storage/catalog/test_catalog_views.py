"""Views over tables written by hand: fresh rows only, no row twice, and no mean without its denominators."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from scipy import stats

from medsam3_core.errors import StoreError
from medsam3_core.metrics.protocol_version import PROTOCOL_VERSION
from medsam3_core.metrics.table import METRICS
from storage.catalog.catalog import catalog_is_current, connect, publish_catalog
from storage.catalog.groups_sql import t_quantile_sql
from storage.catalog.views import PUBLIC_VIEWS
from storage.store import schemas
from storage.store.atomic import write_json
from storage.store.layout import StoreLayout
from storage.store.tables import write_rows
from tests.stores.catalog import DIGEST, HandmadeStore, at


@pytest.fixture
def store(tmp_path: Path) -> HandmadeStore:
    """Four cases and one run that has planned them all."""
    made = HandmadeStore(tmp_path)
    for case in ("c1", "c2", "c3", "c4"):
        made.case(case)
    made.run("run1")
    made.plan("run1", "c1", "c2", "c3", "c4")
    return made


def ask(store: HandmadeStore, query: str) -> list[tuple[Any, ...]]:
    with connect(store.layout, query) as con:
        return con.execute(query).fetchall()


def leaderboard(store: HandmadeStore, **where: Any) -> dict[str, Any]:
    """The single row of the leaderboard that has these values."""
    with connect(store.layout, "leaderboard") as con:
        rows = con.sql("SELECT * FROM leaderboard").to_arrow_table().to_pylist()
    found = [row for row in rows if all(row[key] == value for key, value in where.items())]
    assert len(found) == 1, rows
    return found[0]


def test_empty_store_has_every_view_with_its_columns_and_no_rows(tmp_path):
    with connect(StoreLayout(tmp_path / "nothing")) as con:
        for view in PUBLIC_VIEWS:
            assert con.execute(f"SELECT * FROM {view}").fetchall() == []
        assert con.execute("SELECT * FROM compare('a', 'b@2')").fetchall() == []
        names = [row[0] for row in con.execute("DESCRIBE scores").fetchall()]
    assert names == schemas.SCORES.names


def test_scores_are_those_of_the_newest_attempt(store):
    store.scored("run1", "c1", 0.2, attempt="a1", finished_at=at(10))
    store.scored("run1", "c1", 0.7, attempt="a0", finished_at=at(20))
    assert ask(store, "SELECT case_id, attempt, dice FROM scores") == [("c1", "a0", 0.7)]
    assert ask(store, "SELECT attempt, latest FROM outcomes ORDER BY 1") == [("a0", True), ("a1", False)]


def test_attempts_of_the_same_time_are_ordered_by_their_name(store):
    for attempt, dice in (("a2", 0.2), ("a3", 0.3), ("a1", 0.1)):
        store.scored("run1", "c1", dice, attempt=attempt)
    assert ask(store, "SELECT attempt FROM scores") == [("a3",)]
    assert ask(store, "SELECT attempt FROM outcomes WHERE latest") == [("a3",)]


def test_score_without_outcome_is_not_shown(store):
    store.score("run1", "c1", 0.9)
    assert ask(store, "SELECT * FROM scores") == []
    assert leaderboard(store)["pending"] == 4


def test_changed_case_takes_its_scores_out_until_it_is_scored_again(store):
    store.scored("run1", "c1", 0.5)
    store.case("c1", case_digest="digest-2", ingested_at=at(30))
    assert ask(store, "SELECT * FROM scores") == []
    assert ask(store, "SELECT case_digest FROM cases WHERE case_id = 'c1'") == [("digest-2",)]
    assert leaderboard(store)["pending"] == 4
    store.scored("run1", "c1", 0.8, attempt="a2", case_digest="digest-2", finished_at=at(40))
    assert ask(store, "SELECT dice FROM scores") == [(0.8,)]


def test_score_of_another_digest_than_its_outcome_is_not_shown(store):
    store.outcome("run1", "c1")
    store.score("run1", "c1", 0.5, case_digest="digest-0")
    assert ask(store, "SELECT * FROM scores") == []


def test_scores_of_another_protocol_are_not_shown(store):
    store.scored("run1", "c1", 0.5, protocol="0")
    assert ask(store, "SELECT * FROM scores") == []
    store.score("run1", "c1", 0.6)  # scored again from the stored prediction: the attempt stays
    assert ask(store, "SELECT dice FROM scores") == [(0.6,)]


def test_row_that_was_written_twice_counts_once_and_the_newest_wins(store):
    store.scored("run1", "c1", 0.5)
    store.score("run1", "c1", 0.6, finished_at=at(11))
    store.outcome("run1", "c1")
    store.plan("run1", "c1", "c2", "c3", "c4")
    assert ask(store, "SELECT dice FROM scores") == [(0.6,)]
    assert ask(store, "SELECT count(*) FROM plan") == [(4,)]
    row = leaderboard(store)
    assert (row["planned"], row["scored"], row["pending"], row["dice_mean"]) == (4, 1, 3, 0.6)


def test_split_and_patient_are_those_that_the_cohort_has_now(store):
    store.scored("run1", "c1", 0.5, split="train", patient_id="old")
    assert ask(store, "SELECT split, patient_id FROM scores") == [("test", "c1")]


def test_planned_is_scored_failed_and_pending(store):
    store.scored("run1", "c1", 0.5)
    store.scored("run1", "c2", None)
    row = leaderboard(store)
    assert [row[name] for name in ("planned", "scored", "failed", "pending")] == [4, 1, 1, 2]
    assert row["seconds_per_case"] == 2.0


def test_structure_of_which_a_score_row_is_missing_is_pending(store):
    store.plan("run1", "c1", structures=("vein",))
    store.scored("run1", "c1", 0.5)
    assert leaderboard(store, structure="vein")["pending"] == 1
    assert leaderboard(store, structure="heart")["scored"] == 1


def test_cases_without_reference_are_segmented_and_never_pending(store):
    for case in ("c1", "c2", "c3", "c4"):
        store.outcome("run1", case, status="segmented")
    assert ask(store, "SELECT * FROM leaderboard") == []
    assert ask(store, "SELECT * FROM failures") == []


def test_means_leave_out_training_cases_absent_structures_and_failures(store):
    store.scored("run1", "c1", 0.4)
    store.scored("run1", "c2", 0.9, in_training=True)
    store.scored("run1", "c3", 0.0, empty="reference", hd95=None)
    store.scored("run1", "c4", None)
    row = leaderboard(store)
    assert (row["scored"], row["failed"], row["in_training"]) == (3, 1, 1)
    assert (row["present"], row["absent"], row["absent_correct"]) == (1, 1, 0)
    assert (row["dice_mean"], row["dice_median"], row["hd95_mean"], row["hd95_n"]) == (0.4, 0.4, 4.0, 1)
    assert row["dice_mean_failures_as_zero"] == pytest.approx(0.2)
    assert "hd95_mean_failures_as_zero" not in row


def test_failure_on_a_case_without_the_structure_is_no_zero(store):
    store.case("c4", structures=["vein"], ingested_at=at(1))
    store.scored("run1", "c1", 0.4)
    store.scored("run1", "c4", None)
    row = leaderboard(store)
    assert (row["failed"], row["failed_present"], row["dice_mean_failures_as_zero"]) == (1, 0, 0.4)


def test_if_all_fail_dice_is_zero_with_failures_and_a_metric_that_may_not_apply_is_null(store):
    store.scored("run1", "c1", None)
    row = leaderboard(store)
    assert (row["dice_mean"], row["dice_mean_failures_as_zero"]) == (None, 0.0)
    assert row["cldice_mean_failures_as_zero"] is None


def test_interval_is_scipys_on_the_means_of_patients(store):
    dice = {"c1": 0.2, "c2": 0.4, "c3": 0.7, "c4": 0.9}
    store.case("c2", patient_id="c1", ingested_at=at(1))
    for case, value in dice.items():
        store.scored("run1", case, value)
    patients = [0.3, 0.7, 0.9]
    low, high = stats.t.interval(0.95, 2, loc=sum(patients) / 3, scale=stats.sem(patients))
    row = leaderboard(store)
    assert (row["dice_low"], row["dice_high"]) == (pytest.approx(low), pytest.approx(high))
    assert (row["dice_mean"], row["dice_median"]) == (pytest.approx(0.55), pytest.approx(0.55))


def test_one_patient_has_no_interval(store):
    store.scored("run1", "c1", 0.5)
    assert (leaderboard(store)["dice_low"], leaderboard(store)["dice_high"]) == (None, None)


@pytest.mark.parametrize("patient", ["c1", "c2"])
def test_distances_and_nsd_of_two_units_are_undefined_and_dice_is_not(store, patient):
    store.case("c2", patient_id=patient, ingested_at=at(1))
    store.scored("run1", "c1", 0.4)
    store.scored("run1", "c2", 0.6, distance_unit="px")
    store.scored("run1", "c3", None)
    row = leaderboard(store)
    assert (row["dice_mean"], row["present"], row["distance_unit"], row["hd95_n"]) == (0.5, 2, None, 0)
    undefined = [name for name in row if name.startswith(("nsd_", "hd95_", "assd_")) and not name.endswith("_n")]
    assert len(undefined) == 5 + 4 + 4
    assert {row[name] for name in undefined} == {None}


def test_cases_that_are_in_no_mean_do_not_bring_a_second_unit(store):
    store.case("c0")
    store.scored("run1", "c1", 0.4)
    store.scored("run1", "c0", 0.6, distance_unit="px", empty="both")
    store.scored("run1", "c3", 0.6, distance_unit="px", in_training=True)
    row = leaderboard(store)
    assert (row["nsd_mean"], row["hd95_mean"], row["hd95_n"], row["distance_unit"]) == (0.4, 4.0, 1, "mm")


def test_raters_of_cases_in_two_units_have_no_mean_distance(store):
    row = {"cohort": "hearts", "structure": "heart", "rater": "r1", "other_rater": "r2", "case_digest": DIGEST,
           "empty": "none", "dice": 0.5, "nsd": 0.5, "hd95": 4.0, "protocol": PROTOCOL_VERSION}  # fmt: skip
    agreement = store.layout.agreement("hearts")
    query = "SELECT cases, dice_mean, nsd_mean, hd95_mean, distance_unit FROM inter_rater"
    write_rows(agreement, [row | {"case_id": "c1", "distance_unit": "mm"}], schemas.AGREEMENT)
    assert ask(store, query) == [(1, 0.5, 0.5, 4.0, "mm")]
    write_rows(agreement, [row | {"case_id": "c2", "distance_unit": "px"}], schemas.AGREEMENT)
    assert ask(store, query) == [(2, 0.5, None, None, None)]


def test_raters_have_the_mean_of_every_symmetric_metric_those_with_a_unit_in_one_unit(store):
    symmetric = [metric for metric in METRICS.values() if metric.symmetric]
    values = {metric.name: float(number) for number, metric in enumerate(symmetric, start=1)}
    row = {"cohort": "hearts", "structure": "heart", "rater": "r1", "other_rater": "r2", "case_digest": DIGEST,
           "empty": "none", "protocol": PROTOCOL_VERSION} | values  # fmt: skip
    query = f"SELECT {', '.join(f'{name}_mean' for name in values)} FROM inter_rater"
    write_rows(store.layout.agreement("hearts"), [row | {"case_id": "c1", "distance_unit": "mm"}], schemas.AGREEMENT)
    assert ask(store, query) == [tuple(values.values())]
    write_rows(store.layout.agreement("hearts"), [row | {"case_id": "c2", "distance_unit": "px"}], schemas.AGREEMENT)
    assert ask(store, query) == [
        tuple(None if metric.needs_one_unit else values[metric.name] for metric in symmetric),
    ]


@pytest.mark.parametrize("freedom", [*range(1, 32), 50, 100, 1000, 100_000])
def test_t_quantile_is_scipys(freedom, duck):
    found = duck.execute(f"SELECT {t_quantile_sql(str(freedom))}").fetchall()[0][0]
    assert found == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-7)


@pytest.fixture(scope="module")
def duck():
    import duckdb

    with duckdb.connect() as con:
        yield con


def test_newer_run_of_the_same_key_replaces_the_older_one(store):
    store.scored("run1", "c1", 0.1)
    store.run("run2", inference_code="2", created_at=at(60).isoformat())
    store.scored("run2", "c1", 0.9)
    assert leaderboard(store)["run_id"] == "run2"
    assert ask(store, "SELECT run_id FROM leaderboard_of_runs WHERE superseded") == [("run1",)]
    store.run("other", weights="other")
    store.scored("other", "c1", 0.5)
    assert ask(store, "SELECT base_dice, new_dice FROM compare('other', 'net')") == [(0.5, 0.9)]


def test_compare_pairs_versions_and_keeps_failures(store):
    store.run("run2", weights_version=2, weights_sha256="b" * 64)
    for case, base, new in (("c1", 0.5, 0.75), ("c2", 0.5, None), ("c3", None, 0.25)):
        store.scored("run1", case, base)
        store.scored("run2", case, new, in_training=case == "c1")
    store.scored("run1", "c4", 0.5)
    columns = "case_id, base_status, new_status, base_dice, new_dice, difference_dice, in_training"
    expected = [
        ("c1", "scored", "scored", 0.5, 0.75, 0.25, True),
        ("c2", "scored", "failed", 0.5, None, None, False),
        ("c3", "failed", "scored", None, 0.25, None, False),
    ]
    assert ask(store, f"SELECT {columns} FROM compare('net@1', 'net') ORDER BY 1") == expected
    assert ask(store, "SELECT count(*) FROM compare('net@2', 'net')") == [(3,)]
    assert ask(store, "SELECT count(*) FROM compare('net@3', 'net')") == [(0,)]


def test_compare_does_not_pair_other_prompts_or_settings(store):
    store.scored("run1", "c1", 0.5)
    for run_id, changed in (("run2", {"prompt_id": "p2"}), ("run3", {"settings_id": "s2"})):
        store.run(run_id, weights="other", **changed)
        store.scored(run_id, "c1", 0.5)
    assert ask(store, "SELECT * FROM compare('net', 'other')") == []


def test_compare_takes_the_newest_pair_of_runs_that_share_their_prompt_code(store):
    pairs = "SELECT base_run_id, new_run_id FROM compare('net', 'other')"
    store.run("new1", weights="other", created_at=at(5).isoformat())
    store.run("new2", weights="other", prompt_id="p2", created_at=at(50).isoformat())
    for run_id in ("run1", "new1", "new2"):
        store.scored(run_id, "c1", 0.5)
    assert ask(store, pairs) == [("run1", "new1")]  # BASE was run with the older prompt code only
    store.run("run2", prompt_id="p2", created_at=at(40).isoformat())
    store.scored("run2", "c1", 0.5)
    assert ask(store, pairs) == [("run2", "new2")]
    for run_id, weights in (("run3", "net"), ("new3", "other")):
        store.run(run_id, weights=weights, settings="threshold=0.4", settings_id="s2")
        store.scored(run_id, "c1", 0.5)
    assert sorted(ask(store, pairs)) == [("run2", "new2"), ("run3", "new3")]


MARKS = [
    ({}, "a" * 64, True),
    ({}, "net", True),
    ({}, "f" * 64, False),
    ({"weights_identities": ["net", "a" * 64, "parent"]}, "parent", True),
    ({"weights_identities": ["a" * 64]}, "net", False),
]


@pytest.mark.parametrize(("facts", "mark", "seen"), MARKS)
def test_a_case_that_is_marked_after_it_was_scored_leaves_the_means(store, facts, mark, seen):
    store.run("run1", **facts)
    store.run("other", weights="other", weights_sha256="o" * 64)
    for run_id in ("run1", "other"):
        store.scored(run_id, "c1", 0.9)
        store.scored(run_id, "c2", 0.5)
    store.case("c1", in_training=[mark], ingested_at=at(50))
    found = ask(store, "SELECT case_id, in_training FROM scores WHERE run_id = 'run1' ORDER BY 1")
    assert found == [("c1", seen), ("c2", False)]
    row = leaderboard(store, run_id="run1")
    assert (row["in_training"], row["dice_mean"]) == ((1, 0.5) if seen else (0, 0.7))
    assert leaderboard(store, run_id="other")["in_training"] == 0
    for pair in ("'net', 'other'", "'other', 'net'"):
        compared = ask(store, f"SELECT case_id, in_training FROM compare({pair}) ORDER BY 1")
        assert compared == [("c1", seen), ("c2", False)]


def test_failures_are_cases_of_runs_and_of_the_ingest(store):
    store.scored("run1", "c1", 0.5)
    store.scored("run1", "c2", None, reason="no memory")
    store.outcome("run1", "c3", status="crashed", reason="killed its worker twice")
    store.case("c5", status="rejected", reason="no mask", case_digest=None)
    found = ask(store, "SELECT run_id, weights, case_id, status, reason, source FROM failures ORDER BY case_id")
    assert found == [
        ("run1", "net", "c2", "failed", None, "c2.nii.gz"),
        ("run1", "net", "c3", "crashed", "killed its worker twice", "c3.nii.gz"),
        (None, None, "c5", "rejected", "no mask", "c5.nii.gz"),
    ]


def test_rejected_case_without_digest_keeps_its_row(store):
    store.case("c5", status="rejected", case_digest=None)
    store.plan("run1", "c5")
    store.scored("run1", "c5", None, status="rejected", case_digest=None)
    assert ask(store, "SELECT status FROM scores") == [("rejected",)]
    assert (leaderboard(store)["planned"], leaderboard(store)["failed"]) == (5, 1)


def test_prompts_of_the_current_case_stand_once(store):
    row = {"cohort": "hearts", "prompt_id": "p1", "case_id": "c1", "case_digest": "digest-1", "kind": "text"}
    for _ in range(2):
        write_rows(store.layout.prompts("hearts", "p1"), [row, row | {"case_digest": "old"}], schemas.PROMPTS)
    assert ask(store, "SELECT case_digest FROM prompts") == [("digest-1",)]


def test_history_has_one_row_per_version(store):
    store.run("run2", weights_version=2)
    store.scored("run1", "c1", 0.25)
    store.scored("run2", "c1", 0.75, finished_at=at(99))
    found = ask(store, "SELECT weights_version, dice_mean, n, last_finished FROM history ORDER BY 1")
    assert found == [(1, 0.25, 1, at(10)), (2, 0.75, 1, at(99))]


def test_history_has_a_row_per_split_against_the_primary_rater(store):
    for case, split, raters in (("c1", "train", ["r1", "r2"]), ("c2", "test", ["r1", "r2"]), ("c3", "test", ["r2"])):
        store.case(case, split=split, raters=raters, structures=["heart"], ingested_at=at(1))
    store.case("c4", split="test", raters=[], status="rejected", ingested_at=at(1))
    for rater, dice in (("r1", 0.5), ("r2", 0.9)):
        store.scored("run1", "c1", dice, rater=rater)
        store.scored("run1", "c2", dice / 2, rater=rater)
    store.scored("run1", "c4", None, rater="reference")
    columns = "split, dice_mean, dice_mean_failures_as_zero, n, failed"
    assert ask(store, f"SELECT {columns} FROM history ORDER BY 1") == [
        ("test", 0.25, 0.125, 1, 1),
        ("train", 0.5, 0.5, 1, 0),
    ]


def drop_column(store: HandmadeStore, column: str) -> None:
    """Make the files of a run those of a time before a column."""
    for path in store.layout.scores("run1").glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns([column]), path)


def test_older_file_without_a_column_still_reads(store):
    store.scored("run1", "c1", 0.5)
    drop_column(store, "pq")
    assert ask(store, "SELECT dice, pq FROM scores") == [(0.5, None)]


def test_rows_scored_before_a_metric_was_added_are_fresh_and_counted_out_of_its_mean(store):
    store.scored("run1", "c1", 0.5)
    store.scored("run1", "c2", 0.7)
    drop_column(store, "assd")
    columns = ("scored", "present", "pending", "dice_mean", "assd_n", "assd_mean", "assd_low", "assd_median")
    facts = [leaderboard(store)[name] for name in columns]
    assert facts == [2, 2, 2, pytest.approx(0.6), 0, None, None, None]
    store.scored("run1", "c3", 0.9, assd=3.0)
    facts = [leaderboard(store)[name] for name in columns]
    assert facts == [3, 3, 1, pytest.approx(0.7), 1, 3.0, None, 3.0]


def test_file_of_another_type_is_named(store):
    (store.layout.outcomes("run1")).mkdir(parents=True)
    (store.layout.outcomes("run1") / "bad.parquet").write_text("not parquet")
    with pytest.raises(StoreError, match=r"bad\.parquet"), connect(store.layout):
        pass


def test_store_path_with_quotes_and_wildcards(tmp_path):
    odd = HandmadeStore(tmp_path / "it's [1] *")
    odd.case("c1")
    odd.run("run1")
    odd.scored("run1", "c1", 0.5)
    assert ask(odd, "SELECT dice FROM scores") == [(0.5,)]
    publish_catalog(odd.layout)


def test_published_catalog_answers_and_knows_when_the_store_has_moved(store, tmp_path):
    import duckdb

    store.scored("run1", "c1", 0.5)
    with duckdb.connect(str(publish_catalog(store.layout)), read_only=True) as con:
        assert con.execute("SELECT dice_mean FROM leaderboard").fetchall() == [(0.5,)]
    assert catalog_is_current(store.layout)
    store.scored("run1", "c2", 0.7)  # a file more in a known folder
    with duckdb.connect(str(store.layout.catalog()), read_only=True) as con:
        assert con.execute("SELECT count(*) FROM scores").fetchall() == [(2,)]
    assert catalog_is_current(store.layout)
    store.run("run2")
    assert not catalog_is_current(store.layout)
    publish_catalog(store.layout)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert not catalog_is_current(StoreLayout(moved))


def test_run_json_with_more_keys_reads(store):
    write_json(store.layout.run_json("run9"), {"run_id": "run9", "weights": "w", "later": [1]})
    assert ("run9", "w") in ask(store, "SELECT run_id, weights FROM runs")


def test_long_queries_draw_no_progress_bar_into_the_answer(tmp_path):
    with connect(StoreLayout(tmp_path), "runs") as con:
        assert con.execute("SELECT current_setting('enable_progress_bar')").fetchall() == [(False,)]
