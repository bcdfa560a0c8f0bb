"""Compaction: one file instead of many, the same answers, and readers that never notice."""

import multiprocessing
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.catalog_store import N_STRUCTURES, SyntheticRun, write_synthetic_store
from medsam3_core.errors import StoreError
from storage.catalog import compaction
from storage.catalog.catalog import catalog_is_current, connect, publish_catalog
from storage.catalog.compaction import compact_scores, runs_to_compact, sweep_generations
from storage.catalog.relations import COMPACTED_FILE, groups_folder
from storage.store.tables import table_files
from tests.stores.catalog import HandmadeStore, at


@pytest.fixture
def store(tmp_path):
    """Every way in which a row is or is not fresh."""
    made = HandmadeStore(tmp_path)
    for case in ("c1", "c2", "c3", "c4", "c5"):
        made.case(case)
    made.run("run1")
    made.plan("run1", "c1", "c2", "c3", "c4", "c5")
    made.scored("run1", "c1", 0.1)
    made.scored("run1", "c1", 0.2, attempt="a2", finished_at=at(20))  # supersedes
    made.scored("run1", "c2", 0.3)
    made.score("run1", "c2", 0.4, finished_at=at(30))  # written again
    made.scored("run1", "c3", 0.5, protocol="0")  # another protocol
    made.scored("run1", "c4", None)
    made.score("run1", "c5", 0.9)  # no outcome
    made.case("c2", case_digest="digest-2", ingested_at=at(50))  # changed
    return made


def rows(store, query="SELECT * FROM scores ORDER BY case_id"):
    with connect(store.layout, query) as con:
        return con.execute(query).fetchall()


def test_answers_are_the_same_from_one_file(store):
    queries = ("SELECT * FROM scores ORDER BY ALL", "SELECT * FROM leaderboard", "SELECT * FROM failures ORDER BY ALL")
    before = [rows(store, query) for query in queries]
    folder = compact_scores(store.layout, "run1")
    assert folder is not None
    assert folder.name == "gen-0001"
    assert [file.name for file in table_files(folder)] == [COMPACTED_FILE]
    assert [rows(store, query) for query in queries] == before


def test_leaderboard_of_a_compacted_run_comes_from_its_groups_while_nothing_has_changed(store):
    query = "SELECT scored, failed, dice_mean, dice_median, failed_present FROM leaderboard"
    before = rows(store, query)
    folder = compact_scores(store.layout, "run1")
    file = groups_folder(folder) / "groups.parquet"
    groups = pq.read_table(file)
    marked = groups.set_column(groups.schema.get_field_index("dice_mean"), "dice_mean", pa.array([0.125]))
    pq.write_table(marked, file)
    assert rows(store, "SELECT dice_mean FROM leaderboard") == [(0.125,)]
    assert rows(store, "SELECT dice_mean FROM history") == [(0.125,)]
    store.case("c1", patient_id="another", ingested_at=at(70))
    assert rows(store, query) == before
    store.case("c1", case_digest="digest-3", ingested_at=at(80))
    assert rows(store, "SELECT scored, pending FROM leaderboard") == [(0, 4)]


def test_groups_that_compaction_kept_are_made_again_when_a_case_gets_a_mark(store):
    compact_scores(store.layout, "run1")
    assert rows(store, "SELECT in_training, dice_mean FROM leaderboard") == [(0, 0.2)]
    store.case("c1", in_training=["a" * 64], ingested_at=at(70))
    assert rows(store, "SELECT in_training, dice_mean FROM leaderboard") == [(1, None)]
    store.case("c1", ingested_at=at(80))
    assert rows(store, "SELECT in_training, dice_mean FROM leaderboard") == [(0, 0.2)]


def test_rows_that_may_become_fresh_again_are_kept(store, monkeypatch):
    compact_scores(store.layout, "run1")
    store.case("c2", ingested_at=at(60))  # the file was put back
    assert rows(store, "SELECT dice FROM scores WHERE case_id = 'c2'") == [(0.4,)]
    monkeypatch.setattr("storage.catalog.scores_sql.PROTOCOL_VERSION", "0")
    assert rows(store, "SELECT dice FROM scores") == [(0.5,)]


def test_new_attempts_after_compaction_supersede_it(store):
    compact_scores(store.layout, "run1")
    store.scored("run1", "c1", 0.8, attempt="a3", finished_at=at(90))
    assert rows(store, "SELECT dice FROM scores WHERE case_id = 'c1'") == [(0.8,)]
    again = compact_scores(store.layout, "run1")
    assert again is not None
    assert again.name == "gen-0002"
    assert rows(store, "SELECT dice FROM scores WHERE case_id = 'c1'") == [(0.8,)]


def test_compacted_run_is_left_alone(store):
    assert compact_scores(store.layout, "run1") is not None
    assert compact_scores(store.layout, "run1") is None
    store.run("empty")
    assert compact_scores(store.layout, "empty") is None
    assert runs_to_compact(store.layout, more_files_than=1) == []


def test_few_files_are_compacted_where_they_hold_many_rows(store, monkeypatch):
    assert runs_to_compact(store.layout) == []
    monkeypatch.setattr(compaction, "MAX_LOOSE_BYTES", 1000)
    assert runs_to_compact(store.layout) == ["run1"]
    compact_scores(store.layout, "run1")
    assert runs_to_compact(store.layout) == []


def test_writer_during_compaction_is_noticed_and_nothing_changes(store, monkeypatch):
    def write_meanwhile(*arguments):
        store.score("run1", "c5", 0.9)
        return original(*arguments)

    original = compaction._write_lasting_scores
    monkeypatch.setattr(compaction, "_write_lasting_scores", write_meanwhile)
    with pytest.raises(StoreError, match="were written during compaction"):
        compact_scores(store.layout, "run1")
    assert store.layout.scores("run1").name == "gen-0000"
    assert list(store.layout.scores("run1").parent.iterdir()) == [store.layout.scores("run1")]


def test_old_generation_stays_for_the_grace_period_and_published_catalog_follows(store):
    publish_catalog(store.layout)
    with connect(store.layout) as reader:
        compact_scores(store.layout, "run1")
        assert sweep_generations(store.layout, older_than_seconds=60) == 0
        assert len(reader.execute("SELECT * FROM scores").fetchall()) == 2
    assert not catalog_is_current(store.layout)
    long_ago = time.time() - 120
    os.utime(store.layout.scores("run1"), (long_ago, long_ago))
    assert sweep_generations(store.layout, older_than_seconds=60) == 1
    assert catalog_is_current(store.layout)
    assert len(rows(store)) == 2


def _read_until(stop, begun, store, expected, found):
    """Queries until told to stop; puts how many were made, and the first wrong answer or error."""
    made, wrong = 0, None
    while not stop.is_set() and wrong is None:
        try:
            with connect(store, "scores") as con:
                answer = con.execute("SELECT count(*), count(DISTINCT (run_id, case_id, structure)) FROM scores")
                answer = answer.fetchall()[0]
            wrong = None if answer == (expected, expected) else str(answer)
        except Exception as error:  # noqa: BLE001 - any error of a reader is what this test looks for
            wrong = repr(error)
        made += 1
        begun.release()
    found.put((made, wrong))


def test_readers_see_every_row_once_while_files_are_compacted(tmp_path):
    cases = 60
    store = write_synthetic_store(tmp_path, rows=2 * cases * N_STRUCTURES, files_per_run=30, runs=2)
    context = multiprocessing.get_context("spawn")
    stop, begun, found = context.Event(), context.Semaphore(0), context.Queue()
    arguments = (stop, begun, store, 2 * cases * N_STRUCTURES, found)
    readers = [context.Process(target=_read_until, args=arguments) for _ in range(2)]
    for reader in readers:
        reader.start()
    for run in (SyntheticRun(0), SyntheticRun(1)):
        for _ in range(4):  # queries that the two readers have made meanwhile
            assert begun.acquire(timeout=120)
        assert compact_scores(store, run.run_id) is not None
    for _ in range(4):
        assert begun.acquire(timeout=120)
    stop.set()
    answers = [found.get(timeout=60) for _ in readers]
    for reader in readers:
        reader.join()
    assert all(made > 0 and wrong is None for made, wrong in answers), answers
    assert runs_to_compact(store, more_files_than=1) == []
