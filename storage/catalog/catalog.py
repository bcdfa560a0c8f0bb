"""The catalog: views over the tables of a store, in memory for our own queries, as a file for other tools."""

from pathlib import Path

import duckdb

from medsam3_core.errors import StoreError
from storage.catalog.engine import open_engine, snapshot
from storage.catalog.relations import catalog_sources, quoted, table_folders
from storage.catalog.views import catalog_statements
from storage.store.atomic import replacing
from storage.store.layout import StoreLayout
from storage.store.runs import run_ids
from storage.store.versions import newer_version, written_by_newer

Connection = duckdb.DuckDBPyConnection
"""Type for rooms that run several queries on one snapshot without knowing the engine."""

_RUNS_READ = "runs_read"  # the views use the runs many times: a snapshot reads their small files once


def connect(store: StoreLayout, naming: str | None = None) -> duckdb.DuckDBPyConnection:
    """Open a catalog of the store's present content, in memory, so that queries cannot change the store's tables.

    Cheap enough for one query; it does not see later writes.

    Args:
        store: The store.
        naming: The query, if known: only the views that it names are made. None for all views.

    Raises:
        StoreError: If a table that the views read is damaged or from a newer medsam3; names the file. Queries of other
            tables still work.
    """
    store = snapshot(store)
    con = open_engine(store, python_enable_replacements="false")
    try:
        con.execute("SET parquet_metadata_cache = true")  # the views name the same files many times
        _make_views(con, store, live=False, naming=naming)
    except duckdb.Error as error:
        con.close()
        msg = (
            f"cannot read the tables of store {store.root}: {error}; move the named file away and run the benchmark or "
            "ingest again to recompute it"
        )
        raise StoreError(msg) from error
    except StoreError:
        con.close()
        raise
    return con


def lock_to_tables(con: duckdb.DuckDBPyConnection, store: StoreLayout) -> None:
    """Restrict a connection to the table folders of the store, irrevocably."""
    store = snapshot(store)
    folders = ", ".join(quoted(str(folder.resolve())) for folder in table_folders(store))
    files = ", ".join(quoted(str(store.run_json(run).resolve())) for run in run_ids(store))
    con.execute(f"SET allowed_directories = [{folders}]")
    con.execute(f"SET allowed_paths = [{files}]")
    con.execute("SET autoinstall_known_extensions = false")
    con.execute("SET autoload_known_extensions = false")
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")


def publish_catalog(store: StoreLayout) -> Path:
    """Write `catalog.duckdb`, which holds views only; replaces an older file in one step, without disturbing readers.

    It names absolute folders, so it is outdated when the store moves and when a cohort, run or generation of scores
    is added (see `catalog_is_current`); it sees rows added to known folders.

    Raises:
        StoreError: If a table is not of this version or the disk refuses.
    """
    target, store = store.catalog(), snapshot(store)
    try:
        with replacing(target) as scratch, open_engine(store, scratch) as con:
            _make_views(con, store, live=True)
            con.execute(f"CREATE VIEW internal.published AS SELECT {quoted(_published_from(store))} AS folders")
    except duckdb.Error as error:
        msg = f"cannot write {target}: {error}"
        raise StoreError(msg) from error
    return target


def catalog_is_current(store: StoreLayout) -> bool:
    """True if `catalog.duckdb` exists and names the present folders of the store."""
    if not store.catalog().is_file():
        return False
    store = snapshot(store)
    try:
        with open_engine(store, store.catalog(), read_only=True) as con:
            found = con.execute("SELECT folders FROM internal.published").fetchone()
    except duckdb.Error:
        return False
    return found is not None and found[0] == _published_from(store)


def _published_from(store: StoreLayout) -> str:
    scores = [store.scores(run) for run in run_ids(store)]
    return "\n".join(str(path.resolve()) for path in (*table_folders(store), *scores))


def _make_views(con: duckdb.DuckDBPyConnection, store: StoreLayout, *, live: bool, naming: str | None = None) -> None:
    sources = catalog_sources(store, live=live)
    statements = catalog_statements(sources, naming=naming)
    _refuse_newer(con, sources.files_of(statements))
    if not live and any(sources.runs in statement for statement in statements):
        con.execute(f"CREATE TEMP TABLE {_RUNS_READ} AS {sources.runs}")
        statements = [text.replace(sources.runs, f"SELECT * FROM {_RUNS_READ}") for text in statements]
    for statement in statements:
        con.execute(statement)


def _refuse_newer(con: duckdb.DuckDBPyConnection, files: list[str]) -> None:
    """Check the schema version of every file; the engine reads each footer once, for this and the views."""
    if not files:
        return
    listed = ", ".join(quoted(file) for file in files)
    rows = con.execute(
        f"SELECT file_name, any_value(value) FROM parquet_kv_metadata([{listed}]) "
        "WHERE decode(key) = 'schema_version' GROUP BY ALL"
    ).fetchall()
    for file, version in rows:
        if newer := newer_version(version):
            raise StoreError(written_by_newer(file, newer))
