"""`medsam3 prune` and the maintenance flow: what goes, and that no number goes with it."""

import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from storage.catalog.queries.leaderboard import read_leaderboard
from storage.store.layout import StoreLayout
from storage.store.writers import writing
from storage.upkeep.upkeep import compact_store, prune_store
from tests.command_line import Medsam3, command_line
from tests.stores.planted import plant_cohort, plant_run


@pytest.fixture
def planted(store: StoreLayout) -> StoreLayout:
    """One run, leftovers of a killed process (two hours old and new), and three encodings of 1,128 bytes."""
    plant_run(store, plant_cohort(store, "eyes", 8, ("vessel",)), "mine", lambda structure: np.linspace(0, 1, 8))
    for name, age in ((".tmp-old-scores.parquet", 7200), (".tmp-new-scores.parquet", 0)):
        path = store.runs() / name
        path.write_bytes(b"x" * 100)
        os.utime(path, (time.time() - age,) * 2)
    crumb = store.breadcrumbs() / "abc" / "batch-1"
    crumb.parent.mkdir(parents=True)
    crumb.write_text("case_1")
    os.utime(crumb.parent, (time.time() - 7200,) * 2)
    for index in range(3):
        path = store.encodings() / "aa" / f"{index}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.zeros(1000, np.uint8))
        os.utime(path, (time.time() - 100 + index,) * 2)
    return store


@pytest.fixture
def medsam3(planted: StoreLayout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Medsam3:
    return command_line(planted.root, monkeypatch, capsys)


def _same_numbers(found: pa.Table, expected: pa.Table) -> None:
    """Equal but for the order in which DuckDB's threads add floats."""
    assert found.column_names == expected.column_names
    assert found.num_rows == expected.num_rows
    for name in expected.column_names:
        for value, known in zip(found[name].to_pylist(), expected[name].to_pylist(), strict=True):
            assert value == (pytest.approx(known, rel=1e-12) if isinstance(known, float) else known), name


def test_prune_removes_old_leftovers_and_the_longest_unused_encodings(medsam3: Medsam3, planted: StoreLayout) -> None:
    numbers = read_leaderboard(planted)
    said = medsam3("prune", "--dry-run", "--encodings", "2.5KB").err
    assert "would remove 2 leftovers, 0 replaced score generations, 1 encodings: 1.23 KB" in said
    assert len(list(planted.encodings().glob("??/*.npy"))) == 3
    assert "removed 2 leftovers" in medsam3("prune", "--encodings", "2.5KB").err
    assert sorted(path.name for path in planted.encodings().glob("??/*.npy")) == ["1.npy", "2.npy"]
    assert [path.name for path in planted.runs().glob(".tmp-*")] == [".tmp-new-scores.parquet"]
    assert not list(planted.breadcrumbs().iterdir())
    assert "removed 1 leftovers" in medsam3("prune", "--older-than", "0").err
    _same_numbers(read_leaderboard(planted), numbers)


def test_the_settings_say_how_large_the_cache_may_be(medsam3: Medsam3, planted: StoreLayout) -> None:
    (planted.root.parent / "medsam3.toml").write_text('[maintenance]\nencodings = "1.5KB"\n')
    assert "2 encodings" in medsam3("prune").err
    assert "'many' is not a number with KB, MB, GB or TB" in medsam3("prune", "--encodings", "many", code=2).err


def test_runs_are_compacted_except_those_that_somebody_writes(planted: StoreLayout) -> None:
    numbers = read_leaderboard(planted)
    (run_id,) = [path.parent.name for path in planted.runs().glob("*/run.json")]
    with writing(planted, [run_id]):
        assert compact_store(planted, more_files_than=0).busy == (run_id,)
    assert compact_store(planted, more_files_than=0).compacted == (run_id,)
    assert planted.scores(run_id).name == "gen-0001"
    os.utime(planted.scores(run_id), (time.time() - 7200,) * 2)
    assert prune_store(planted, encodings_size=None, leftover_seconds=3600).generations == 1
    _same_numbers(read_leaderboard(planted), numbers)


def test_pruning_a_folder_that_is_no_store_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = command_line(tmp_path / "nowhere", monkeypatch, capsys)
    assert "no store at" in run("prune", code=2).err
