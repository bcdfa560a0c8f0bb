"""`medsam3 sql` answers one SELECT over the views, and whatever else is asked of it is refused with the way out."""

import pytest

from medsam3_core.errors import UsageError
from storage.catalog.catalog import connect, lock_to_tables
from storage.catalog.guard import check_select, run_sql
from tests.stores.catalog import HandmadeStore

ANSWERED = [
    "SELECT case_id, dice FROM scores WHERE dice > 0.1 ORDER BY dice DESC LIMIT 3",
    "FROM scores",
    "TABLE leaderboard",
    "VALUES (1, 'a')",
    "SELECT * FROM main.scores;",
    "SELECT count(*) FILTER (WHERE dice > 0.5), quantile_cont(dice, [0.1, 0.9]), stddev_samp(dice) FROM scores",
    "WITH best AS (SELECT *, row_number() OVER (PARTITION BY case_id ORDER BY dice DESC) AS n FROM scores) FROM best",
    "SELECT weights, avg(dice) FROM scores JOIN cases USING (cohort, case_id) GROUP BY ALL UNION ALL SELECT 'x', 1",
    "SELECT * FROM compare('net', 'net@1')",
    "SELECT strftime(finished_at, '%Y-%m'), lower(structure), regexp_extract(case_id, '[0-9]') FROM scores",
    "SELECT * FROM scores WHERE case_id IN (SELECT case_id FROM failures) OR EXISTS (SELECT 1 FROM cases)",
    "SELECT CASE WHEN dice IS NULL THEN 'no' ELSE 'yes' END, coalesce(dice, 0), dice::INTEGER FROM scores",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT * FROM t",
    "SELECT * FROM range(3), unnest([1, 2]) AS u(v)",
    "UNPIVOT (SELECT case_id, dice, nsd FROM scores) ON dice, nsd",
    "SELECT /* a comment; with DROP */ 1 -- and COPY",
    "SELECT 1 AS a, 2 AS a",
]

REFUSED = [
    "",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW scores",
    "COPY scores TO '/tmp/stolen.csv'",
    "COPY (SELECT 1) TO 'inside.parquet'",
    "ATTACH 'other.duckdb' AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "SET threads = 1",
    "RESET lock_configuration",
    "CALL pragma_version()",
    "EXPORT DATABASE 'here'",
    "IMPORT DATABASE 'here'",
    "CREATE TABLE t AS SELECT 1",
    "INSERT INTO scores VALUES (1)",
    "DELETE FROM scores",
    "UPDATE scores SET dice = 1",
    "WITH x AS (DELETE FROM scores RETURNING *) SELECT * FROM x",
    "DROP VIEW scores",
    "PREPARE p AS SELECT 1",
    "EXPLAIN ANALYZE SELECT 1",
    "VACUUM",
    "CHECKPOINT",
    "BEGIN",
    "DESCRIBE scores",
    "SHOW TABLES",
    "SUMMARIZE scores",
    "SELECT * FROM (DESCRIBE scores)",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM /* FROM scores */ read_text('/etc/passwd')",
    "SELECT * FROM READ_TEXT('/etc/passwd')",
    "SELECT * FROM \"read_text\"('/etc/passwd')",
    "SELECT * FROM system.main.read_text('/etc/passwd')",
    "SELECT 'x'.read_text()",
    "FROM '/etc/passwd'",
    'SELECT * FROM "/etc/passwd"',
    "SELECT * FROM 'https://example.org/x.parquet'",
    "SELECT * FROM read_parquet('x.parquet')",
    "SELECT * FROM parquet_scan(['x.parquet'])",
    "SELECT * FROM parquet_metadata('x.parquet')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_json('run.json')",
    "SELECT * FROM read_duckdb('catalog.duckdb')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "SELECT * FROM query_table('scores')",
    "SELECT * FROM json_execute_serialized_sql('{}')",
    "WITH a AS (FROM read_text('/etc/passwd')) SELECT * FROM a",
    'WITH "/etc/passwd" AS (SELECT 1) SELECT * FROM (WITH b AS (FROM "/etc/passwd") FROM b)',
    "WITH duckdb_views AS (SELECT 1) SELECT * FROM duckdb_views",
    "SELECT (SELECT max(content) FROM read_text('/etc/passwd'))",
    "SELECT * FROM scores, LATERAL (SELECT * FROM read_blob(scores.case_id))",
    "SELECT * FROM scores WHERE EXISTS (FROM glob('/*'))",
    "SELECT * FROM scores POSITIONAL JOIN (FROM read_text('/etc/passwd'))",
    "SELECT 1 UNION ALL SELECT content FROM read_text('/etc/passwd')",
    "SELECT 1 ORDER BY (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT list_transform([1], lambda x: (SELECT content FROM read_text('/etc/passwd')))",
    "SELECT * FROM compare((SELECT content FROM read_text('/etc/passwd')), 'net')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_views",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM internal.current_attempts",
    "SELECT * FROM memory.main.scores",
    "SELECT getenv('HOME')",
    "SELECT current_setting('allowed_directories')",
    "SELECT getvariable('x')",
    "SELECT nextval('s')",
    "SELECT write_log('x')",
    "SELECT sleep_ms(10000)",
    "SELECT * FROM enable_logging()",
    "SELECT * FROM which_secret('s3://x', 's3')",
    "SELECT * FROM python_map_function()",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = HandmadeStore(tmp_path_factory.mktemp("store"))
    made.case("c1")
    made.run("run1")
    made.plan("run1", "c1")
    made.scored("run1", "c1", 0.5)
    return made.layout


@pytest.mark.parametrize("query", ANSWERED)
def test_select_over_the_views_is_answered(store, query):
    assert run_sql(store, query).num_columns >= 1


@pytest.fixture(scope="module")
def views(store):
    with connect(store) as con:
        yield con


@pytest.mark.parametrize("query", REFUSED)
def test_anything_else_is_refused_before_it_runs(views, query):
    with pytest.raises(UsageError):
        check_select(views, query)


@pytest.mark.parametrize("query", ["", "DROP VIEW scores", "FROM '/etc/passwd'", "SELECT $1", "SELEC 1"])
def test_refusal_lists_the_views(store, query):
    with pytest.raises(UsageError, match="views and their columns"):
        run_sql(store, query)


def test_answer_has_the_values_and_types_of_the_view(store):
    assert run_sql(store, "SELECT case_id, dice FROM scores").to_pylist() == [{"case_id": "c1", "dice": 0.5}]


def test_error_is_the_engines_and_lists_views_with_columns(store):
    with pytest.raises(UsageError, match=r'(?s)"dise" not found.*scores: run_id, attempt, weights') as raised:
        run_sql(store, "SELECT dise FROM scores")
    assert "table macro: compare('BASE', 'NEW')" in str(raised.value)


def test_engine_alone_refuses_files_outside_the_tables(store, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    with connect(store) as con:
        lock_to_tables(con, store)
        assert con.execute("SELECT count(*) FROM leaderboard").fetchall() == [(1,)]
        for query in (f"FROM read_text('{secret}')", f"COPY scores TO '{tmp_path / 'o.csv'}'", "SET threads = 1"):
            with pytest.raises(Exception, match=r"disabled by configuration|has been locked"):
                con.execute(query).fetchall()
