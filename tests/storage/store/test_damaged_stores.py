"""Stores that are not whole: half-written, damaged, from a newer version, or written at this moment."""

import threading
import time

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from flows.cli.entry import cli
from medsam3_core.errors import StoreError
from storage.catalog.catalog import catalog_is_current, connect, publish_catalog
from storage.catalog.relations import tables_state
from storage.store.runs import broken_runs
from storage.store.schemas import OUTCOMES
from storage.store.tables import read_table, table_files
from tests.stores.catalog import HandmadeStore


@pytest.fixture
def store(tmp_path):
    """Two finished runs of two cases."""
    made = HandmadeStore(tmp_path / "store")
    for case in ("c1", "c2"):
        made.case(case)
    for run, weights in (("run1", "net"), ("run2", "other")):
        made.run(run, weights=weights)
        made.plan(run, "c1", "c2")
        made.scored(run, "c1", 0.5)
        made.scored(run, "c2", 0.7)
    return made


def ask(store, query):
    """What `medsam3 sql` answers: its exit code, stdout and stderr."""
    return CliRunner().invoke(cli, ["sql", query, "--format", "csv", "--store", str(store.root)], standalone_mode=False)


def rows(store, query):
    with connect(store.layout, query) as con:
        return con.execute(query).fetchall()


def mark_as_newer(folder, version):
    """Rewrite the first table of a folder as a later medsam3 would."""
    path = table_files(folder)[0]
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata) | {b"schema_version": version}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def truncate(path, keep=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


@pytest.mark.parametrize("version", [b"2", b"12", b"1.5"])
def test_a_table_of_a_newer_schema_is_refused_by_file_and_version(store, version):
    path = mark_as_newer(store.layout.scores("run1"), version)
    expected = rf"{path.name} has schema version {version.decode()}, .* reads versions up to 1: upgrade medsam3"
    with pytest.raises(StoreError, match=expected):
        rows(store, "SELECT * FROM leaderboard")
    with pytest.raises(StoreError, match=expected):
        publish_catalog(store.layout)


def test_other_views_answer_beside_a_table_of_a_newer_schema(store):
    mark_as_newer(store.layout.outcomes("run1"), b"2")
    assert rows(store, "SELECT count(*) FROM cases") == [(2,)]
    assert rows(store, "SELECT count(*) FROM plan") == [(4,)]
    with pytest.raises(StoreError, match="schema version 2"):
        read_table(store.layout.outcomes("run1"), OUTCOMES)


def test_a_table_without_a_version_is_an_older_one(store):
    path = table_files(store.layout.scores("run1"))[0]
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({}), path)
    assert rows(store, "SELECT count(*) FROM scores") == [(4,)]


@pytest.mark.parametrize("keep", [0.0, 0.6])
def test_a_half_written_table_is_named_and_other_views_answer(store, keep):
    path = table_files(store.layout.scores("run1"))[0]
    truncate(path, keep)
    with pytest.raises(StoreError, match=rf"{path.name}.*move the named file away and run the benchmark"):
        rows(store, "SELECT * FROM scores")
    for view, count in (("cases", 2), ("runs", 2), ("plan", 4), ("outcomes", 4), ("failures", 0)):
        assert rows(store, f"SELECT count(*) FROM {view}") == [(count,)]
    path.rename(path.with_suffix(".damaged"))
    assert rows(store, "SELECT count(*) FROM scores") == [(3,)]


def test_an_error_in_sql_lists_the_views_of_a_damaged_store_too(store):
    truncate(table_files(store.layout.scores("run1"))[0])
    answer = ask(store, "SELECT dise FROM cases")
    assert '"dise" not found' in str(answer.exception)
    assert "scores: run_id, attempt" in str(answer.exception)


def test_scratch_files_and_empty_folders_of_runs_are_no_runs(store):
    (store.layout.scores("run1") / ".tmp-1-batch.parquet").write_bytes(b"half")
    (store.layout.runs() / "run3").mkdir()
    (store.layout.runs() / ".tmp-2-run4").mkdir()
    assert rows(store, "SELECT count(*) FROM scores") == [(4,)]
    assert broken_runs(store.layout) == []


@pytest.mark.parametrize(
    ("damage", "fault"), [(lambda path: path.unlink(), "run.json is missing"), (truncate, "run.json is damaged (")]
)
def test_a_run_without_its_run_json_is_left_out_as_a_whole_and_named(store, damage, fault):
    damage(store.layout.run_json("run1"))
    answer = ask(store, "SELECT run_id, count(*) AS n FROM scores GROUP BY ALL")
    assert answer.stdout == "run_id,n\nrun2,2\n"
    assert rows(store, "SELECT DISTINCT run_id FROM leaderboard") == [("run2",)]
    (sentence,) = broken_runs(store.layout)
    assert sentence in answer.stderr
    assert "run run1 is left out of all views" in sentence
    assert fault in sentence


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), truncate, lambda path: path.write_bytes(b"")])
def test_answers_do_not_depend_on_the_published_catalog(store, damage):
    """`catalog.duckdb` is for other tools: missing or half-written it is no loss, and is written anew."""
    damage(publish_catalog(store.layout))
    assert not catalog_is_current(store.layout)
    assert ask(store, "SELECT count(*) AS n FROM scores").stdout == "n\n4\n"
    publish_catalog(store.layout)
    assert catalog_is_current(store.layout)


def test_the_state_of_the_tables_changes_with_every_file_and_not_without(store):
    seen = [tables_state(store.layout), tables_state(store.layout)]
    assert seen[0] == seen[1]
    for write in (
        lambda: store.outcome("run1", "c1", attempt="a2"),
        lambda: store.score("run1", "c1", 0.4),
        lambda: store.case("c3"),
        lambda: store.run("run3"),
        lambda: store.plan("run3", "c3"),
    ):
        time.sleep(0.02)  # file systems keep times in ticks
        write()
        seen.append(tables_state(store.layout))
    assert len(set(seen[1:-2])) == 4
    assert seen[-1] != seen[-3]


def test_a_missing_store_says_how_to_make_one(tmp_path):
    answer = CliRunner().invoke(cli, ["sql", "SELECT 1", "--store", str(tmp_path / "none")], standalone_mode=False)
    assert "no store at" in str(answer.exception)
    assert "medsam3 ingest SOURCE" in str(answer.exception)


def test_readers_beside_a_writer_see_whole_cases_and_never_fewer(tmp_path):
    """A benchmark commits scores, then outcomes: no reader meets half a case or an error, and counts only grow."""
    written = HandmadeStore(tmp_path / "store")
    cases = [f"c{number}" for number in range(40)]
    for case in cases:
        written.case(case)
    written.run("run1")
    written.plan("run1", *cases, structures=("heart", "vein"))

    def write():
        for case in cases:
            written.score("run1", case, 0.5)
            written.score("run1", case, 0.5, structure="vein")
            written.outcome("run1", case)

    writer = threading.Thread(target=write)
    writer.start()
    counts = []
    while writer.is_alive() or not counts:
        counts += rows(written, "SELECT count(*), count(DISTINCT case_id) FROM scores")
    writer.join()
    counts += rows(written, "SELECT count(*), count(DISTINCT case_id) FROM scores")
    assert counts[-1] == (80, 40)
    assert counts == sorted(counts)
    assert all(scores == 2 * whole for scores, whole in counts)
