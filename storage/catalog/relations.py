"""Files of each table of the catalog, as typed SQL relations: the only SQL that names paths.

A *snapshot* lists every file, the ledger before the scores: workers write scores first, so every listed outcome has its
scores in the list. A *live* source names folders, for the published catalog, and sees files that are added to them
later. Folders and files are always named one by one, never by a wildcard over the store: only the newest generation of
scores is read, and the engine can be locked to table folders.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from storage.store import schemas
from storage.store.layout import StoreLayout
from storage.store.locations import is_remote
from storage.store.runs import run_ids
from storage.store.tables import table_files

_TYPES = {
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.timestamp("us"): "TIMESTAMP",
    pa.list_(pa.string()): "VARCHAR[]",
    pa.list_(pa.int32()): "INTEGER[]",
}
COMPACTED_FILE = "compacted.parquet"
_FILES = "[!.]*.parquet"  # without the scratch files of writers


@dataclass(frozen=True, slots=True)
class CatalogSources:
    """One SQL relation per table, with exactly the columns of its schema.

    Attributes:
        cases: All rows of the case tables.
        prompts: All rows of the prompt tables.
        runs: One row per `run.json`.
        outcomes: All rows of the ledgers.
        measurements: All rows of the measurement tables.
        traces: All rows of the traces of the agent.
        agreement: All rows of the tables that compare raters.
        plan_distinct: Plans of one file, which have no duplicate rows.
        plan: All other plans.
        scores_compacted: Scores of compacted generations: no duplicate rows, each with the digest of its outcome.
        scores: All other scores of the newest generation of each run.
        groups: Score groups that compaction kept beside those generations.
        files: Parquet files by relation.
    """

    cases: str
    prompts: str
    runs: str
    outcomes: str
    measurements: str
    traces: str
    agreement: str
    plan_distinct: str
    plan: str
    scores_compacted: str
    scores: str
    groups: str
    files: Mapping[str, list[str]]

    def files_of(self, statements: Iterable[str]) -> list[str]:
        """Parquet files that these statements read."""
        read = "".join(statements)
        return [file for relation, files in self.files.items() if relation in read for file in files]


def catalog_sources(store: StoreLayout, *, live: bool, only_run: str | None = None) -> CatalogSources:
    """Relations over the present content of the store.

    Args:
        store: The store; it may be empty.
        live: Name folders instead of files, see the module's docstring.
        only_run: Read only this run.
    """
    runs, case_tables = run_ids(store) if only_run is None else [only_run], case_folders(store)
    outcomes = _files([store.outcomes(run) for run in runs], live=live)  # before the scores
    plan_one, plan_many = _apart([store.plan(run) for run in runs], lambda files: len(files) == 1, live=live)
    compacted, scores = _apart([store.scores(run) for run in runs], is_compacted, live=live)
    summarised = [] if live else [store.scores(run) for run in runs if is_compacted(table_files(store.scores(run)))]
    groups = _files([groups_folder(scores) for scores in summarised], live=live)
    measurements = _files([store.measurements(run) for run in runs], live=live)
    cases = _files(case_tables, live=live)
    prompts = _files(prompt_folders(store), live=live)
    agreement = _files([store.agreement(folder.parent.name) for folder in case_tables], live=live)
    read: dict[str, list[str]] = {}

    def relation(schema: pa.Schema, files: list[str]) -> str:
        text = _parquet(schema, files)
        read[text] = files
        return text

    return CatalogSources(
        cases=relation(schemas.CASES, cases),
        prompts=relation(schemas.PROMPTS, prompts),
        runs=_json(schemas.RUNS, [literal_path(store.run_json(run)) for run in runs]),
        outcomes=relation(schemas.OUTCOMES, outcomes),
        measurements=relation(schemas.MEASUREMENTS, measurements),
        traces=relation(schemas.TRACES, _files([store.traces(run) for run in runs], live=live)),
        agreement=relation(schemas.AGREEMENT, agreement),
        plan_distinct=relation(schemas.PLAN, plan_one),
        plan=relation(schemas.PLAN, plan_many),
        scores_compacted=relation(schemas.SCORES, compacted),
        scores=relation(schemas.SCORES, scores),
        groups=relation(schemas.GROUPS, groups),
        files=read,
    )


def case_folders(store: StoreLayout) -> list[Path]:
    """Folders of all case tables, sorted."""
    return sorted(store.cohorts().glob("[!.]*/cases"))


def prompt_folders(store: StoreLayout) -> list[Path]:
    """Folders of all prompt tables, sorted."""
    return sorted(path for path in store.cohorts().glob("[!.]*/prompts/[!.]*") if path.is_dir())


def groups_folder(generation: Path) -> Path:
    """Folder in which compaction keeps the score groups of a generation of scores."""
    return generation / "groups"


def table_folders(store: StoreLayout) -> list[Path]:
    """Folders that the catalog may read; no volumes, predictions or weights are below them."""
    case_tables = case_folders(store)
    folders = [*case_tables, *prompt_folders(store)]
    folders += [folder for cases in case_tables if (folder := store.agreement(cases.parent.name)).is_dir()]
    for run in run_ids(store):
        scores = store.scores(run).parent
        folders += [store.plan(run), store.outcomes(run), scores, store.measurements(run), store.traces(run)]
    return folders


def tables_state(store: StoreLayout) -> int:
    """A number that changes when a table gains or loses a file, to keep answers until then.

    Reads only the times of folders, one system call each; of an object store, it lists their files.
    """
    folders = [*table_folders(store), *(store.scores(run) for run in run_ids(store))]
    if is_remote(store.root):
        return hash(tuple((str(folder), *(file.name for file in table_files(folder))) for folder in folders))
    return hash(tuple((str(folder), folder.stat().st_mtime_ns) for folder in folders if folder.is_dir()))


def is_compacted(files: list[Path]) -> bool:
    """True if these files of a generation are the single file that compaction writes."""
    return [file.name for file in files] == [COMPACTED_FILE]


def quoted(text: str) -> str:
    """An SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def literal_path(path: Path) -> str:
    """The absolute path with its wildcard characters escaped, for readers that accept patterns."""
    return re.sub(r"([\[*?])", r"[\1]", str(path.resolve()))


def _files(folders: Iterable[Path], *, live: bool) -> list[str]:
    found = [(folder, files) for folder in folders if (files := table_files(folder))]
    if live:
        return [f"{literal_path(folder)}/{_FILES}" for folder, _ in found]
    return [literal_path(file) for _, files in found for file in files]


def _apart(
    folders: Iterable[Path], is_simple: Callable[[list[Path]], bool], *, live: bool
) -> tuple[list[str], list[str]]:
    """Files of simple folders, and of all others; a live folder may gain files and is never simple."""
    simple: list[str] = []
    others: list[str] = []
    for folder in folders:
        target = simple if not live and is_simple(table_files(folder)) else others
        target += _files([folder], live=live)
    return simple, others


def _empty(schema: pa.Schema) -> str:
    columns = ", ".join(f'NULL::{_TYPES[field.type]} AS "{field.name}"' for field in schema)
    return f"SELECT {columns} WHERE false"


def _parquet(schema: pa.Schema, files: list[str]) -> str:
    """Typed relation: columns that all files lack are NULL, columns that the schema lacks are left out."""
    if not files:
        return _empty(schema)
    columns = ", ".join(f'"{field.name}"::{_TYPES[field.type]} AS "{field.name}"' for field in schema)
    listed = ", ".join(quoted(file) for file in files)
    read = f"SELECT * FROM read_parquet([{listed}], union_by_name = true, hive_partitioning = false)"
    return f"SELECT {columns} FROM (({_empty(schema)}) UNION ALL BY NAME ({read}))"


def _json(schema: pa.Schema, files: list[str]) -> str:
    if not files:
        return _empty(schema)
    columns = ", ".join(f'"{field.name}": {quoted(_TYPES[field.type])}' for field in schema)
    listed = ", ".join(quoted(file) for file in files)
    return f"SELECT * FROM read_json([{listed}], format = 'unstructured', columns = {{{columns}}})"
