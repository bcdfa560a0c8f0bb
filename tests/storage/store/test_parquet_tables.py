from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medsam3_core.errors import StoreError
from storage.store import schemas
from storage.store.tables import read_table, rows_of_cases, table_files, write_rows

SCHEMA = pa.schema([("case_id", pa.string()), ("dice", pa.float64()), ("n", pa.int32())])
TABLES = ("CASES", "PROMPTS", "PLAN", "OUTCOMES", "SCORES", "RUNS", "MEASUREMENTS")


def test_rows_come_back_and_missing_keys_are_null(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"case_id": "a", "dice": 0.5}, {"case_id": "b", "n": 3}], SCHEMA)
    assert read_table(tmp_path, SCHEMA).to_pylist() == [
        {"case_id": "a", "dice": 0.5, "n": None},
        {"case_id": "b", "dice": None, "n": 3},
    ]


def test_a_column_that_the_schema_lacks_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"unknown columns \['dise'\]"):
        write_rows(tmp_path, [{"case_id": "a", "dise": 0.5}], SCHEMA)
    assert list(tmp_path.iterdir()) == []


def test_a_value_of_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="do not fit the table's schema"):
        write_rows(tmp_path, [{"case_id": "a", "dice": "high"}], SCHEMA)


def test_writing_under_a_name_twice_gives_one_file(tmp_path: Path) -> None:
    for dice in (0.1, 0.2):
        write_rows(tmp_path, [{"case_id": "a", "dice": dice}], SCHEMA, name="batch-1")
    assert [path.name for path in table_files(tmp_path)] == ["batch-1.parquet"]
    assert read_table(tmp_path, SCHEMA)["dice"].to_pylist() == [0.2]


def test_writers_without_a_name_never_share_a_file(tmp_path: Path) -> None:
    for _ in range(2):
        write_rows(tmp_path, [{"case_id": "a"}], SCHEMA)
    assert len(table_files(tmp_path)) == 2


def test_an_older_file_without_a_column_reads_as_null(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"case_id": "old"}], SCHEMA.remove(2), name="1")
    write_rows(tmp_path, [{"case_id": "new", "n": 1}], SCHEMA, name="2")
    assert read_table(tmp_path, SCHEMA, columns=["case_id", "n"]).to_pylist() == [
        {"case_id": "old", "n": None},
        {"case_id": "new", "n": 1},
    ]


def test_an_absent_folder_is_an_empty_table(tmp_path: Path) -> None:
    assert read_table(tmp_path / "absent", SCHEMA).schema == SCHEMA


def test_scratch_files_of_writers_are_not_read(tmp_path: Path) -> None:
    (tmp_path / ".tmp-123-batch.parquet").write_bytes(b"half")
    assert read_table(tmp_path, SCHEMA).num_rows == 0


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"half")
    with pytest.raises(StoreError, match=r"x\.parquet is not a table of this version"):
        read_table(tmp_path, SCHEMA)


def test_a_column_of_another_type_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"case_id": ["a"], "dice": ["high"]}), tmp_path / "x.parquet")
    with pytest.raises(StoreError, match=r"x\.parquet is not a table of this version"):
        read_table(tmp_path, SCHEMA)


def test_rows_of_some_cases_are_picked_from_several_tables() -> None:
    tables = [pa.Table.from_pylist([{"case_id": name, "n": 1} for name in names], SCHEMA) for names in ("ab", "bc")]
    assert [row["case_id"] for row in rows_of_cases(tables, ["b", "z"])] == ["b", "b"]


@pytest.mark.parametrize("name", TABLES)
def test_every_column_says_what_it_holds(name: str) -> None:
    schema = getattr(schemas, name)
    assert all(field.metadata[b"description"] for field in schema)
    assert schema.metadata[b"schema_version"]
