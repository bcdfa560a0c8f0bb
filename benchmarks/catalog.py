"""Speed of the catalog at scale, against pandas with the same rows in memory, and while files are compacted.

    python -m benchmarks.catalog [--rows 10000000] [--quick]

`leaderboard`: counts and means with 95 % t intervals over patient means, per run and structure, from rows and from the
groups that compaction keeps. pandas groups a DataFrame with the same columns, loading not counted, once with text
columns and once with categories.
`pairs`: rows of two weights side by side and their differences. pandas does it twice: from the rows of the tables,
where it must find the newest attempts and current cases as the catalog does, and from rows that the catalog has
filtered.
`compaction`: 1,000 small files become one per run while three processes query; every answer must hold every row once.

All answers must be equal. Seconds are the best of three (pandas: one round); CPU seconds are those of the whole
process, for shared machines.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import stats

from benchmarks.catalog_store import N_RUNS, N_STRUCTURES, SyntheticRun, write_synthetic_store
from medsam3_core.metrics.protocol_version import PROTOCOL_VERSION
from storage.catalog.catalog import connect
from storage.catalog.compaction import compact_scores, keep_groups
from storage.catalog.relations import groups_folder
from storage.store.layout import StoreLayout
from storage.store.runs import run_ids

ROUNDS = 3
READERS = 3
SMALL_FILES = 1000
_KEYS = ["run_id", "split", "structure", "rater"]
_LEADERBOARD = """
SELECT run_id, structure, planned, scored, failed, dice_mean, dice_mean_failures_as_zero, dice_low, dice_high
FROM leaderboard ORDER BY run_id, structure"""
_PAIRS = """
SELECT case_id, structure, prompt, patient_id, base_dice, new_dice, difference_dice
FROM compare('weights-0', 'weights-1')"""


def main() -> None:
    """Print one line per question."""
    parser = argparse.ArgumentParser(description="speed of the catalog at scale")
    parser.add_argument("--rows", type=int, default=10_000_000, help="score rows")
    parser.add_argument("--quick", action="store_true", help="200,000 rows and 100 small files")
    options = parser.parse_args()
    rows, files = (200_000, 100) if options.quick else (options.rows, SMALL_FILES)
    with tempfile.TemporaryDirectory() as folder:
        measure_queries(Path(folder) / "large", rows)
        measure_compaction(Path(folder) / "small", files)


def measure_queries(root: Path, rows: int) -> None:
    """Time leaderboard and pairs against pandas."""
    store = write_synthetic_store(root, rows=rows)
    seconds, cpu, _ = best_of(lambda: connect(store).close())
    print(f"connect: {seconds:.2f} s ({cpu:.2f} s CPU)")
    with connect(store) as con:
        raw = best_of(lambda: con.execute(_LEADERBOARD).df(), rounds=1)
    print(f"leaderboard from rows, without kept groups: {raw[0]:.2f} s ({raw[1]:.2f} s CPU)")
    for run in run_ids(store):  # as compaction does at the end of a benchmark
        keep_groups(store, run, groups_folder(store.scores(run)))
    with connect(store) as con:
        board = best_of(lambda: con.execute(_LEADERBOARD).df())
        _check_leaderboards(board[2], raw[2])
        pairs = best_of(lambda: con.sql(_PAIRS).to_arrow_table())
        arrow = _scores(con)
        attempts, cases = _ledger(con)
    print(f"{arrow.num_rows:,} score rows, {N_RUNS} runs; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for kind, categories in (("text columns", False), ("categories", True)):
        frame = arrow.to_pandas(strings_to_categorical=categories)
        pandas_board = best_of(lambda frame=frame: pandas_leaderboard(frame), rounds=1)
        ledger = [table.to_pandas(strings_to_categorical=False) for table in (attempts, cases)]
        pandas_whole = best_of(lambda frame=frame, ledger=ledger: pandas_pairs_of(pandas_fresh(frame, *ledger)))
        pandas_pairs = best_of(lambda frame=frame: pandas_pairs_of(frame))
        _report("leaderboard", board, pandas_board, kind)
        _report("pairs", pairs, pandas_whole, kind)
        _report("pairs, pandas with fresh rows sorted out before", pairs, pandas_pairs, kind)
        _check_pairs(pairs[2], pandas_whole[2])
        _check_leaderboards(board[2], pandas_board[2])
        _check_pairs(pairs[2], pandas_pairs[2])
        del frame


def pandas_leaderboard(frame: pd.DataFrame) -> pd.DataFrame:
    """Leaderboard with pandas: two groupings, because intervals are over patients."""
    scored = frame["status"] == "scored"
    usable = ~frame["in_training"]
    counted = scored & usable & frame["empty"].isin(["none", "prediction"])
    missed = ~scored & usable
    work = frame[[*_KEYS, "patient_id"]].assign(
        dice=frame["dice"].where(counted), scored=scored, failed=~scored, missed=missed
    )
    groups = work.groupby(_KEYS, observed=True, sort=False)
    board = groups.agg(
        planned=("scored", "size"),
        scored=("scored", "sum"),
        failed=("failed", "sum"),
        missed=("missed", "sum"),
        dice_mean=("dice", "mean"),
        n=("dice", "count"),
    )
    patients = work.groupby([*_KEYS, "patient_id"], observed=True, sort=False)["dice"].mean()
    by_group = patients.groupby(level=_KEYS, observed=True).agg(["mean", "std", "count"])
    half = stats.t.ppf(0.975, by_group["count"] - 1) * by_group["std"] / np.sqrt(by_group["count"])
    board["dice_mean_failures_as_zero"] = board["dice_mean"] * board["n"] / (board["n"] + board["missed"])
    board["dice_low"], board["dice_high"] = by_group["mean"] - half, by_group["mean"] + half
    board = board.reset_index().astype({"run_id": str, "structure": str})
    return board.sort_values(["run_id", "structure"], ignore_index=True)


def pandas_pairs_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Pairs with pandas."""
    keys = ["cohort", "case_id", "rater", "structure", "prompt_id", "settings_id"]
    columns = [*keys, "prompt", "patient_id", "status", "dice"]
    base = frame.loc[frame["weights"] == "weights-0", columns]
    new = frame.loc[frame["weights"] == "weights-1", [*keys, "status", "dice"]]
    pairs = base.merge(new, on=keys, suffixes=("_base", "_new"))
    return pairs.assign(difference_dice=pairs["dice_new"] - pairs["dice_base"])


def pandas_fresh(frame: pd.DataFrame, attempts: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """Rows of two weights from the newest attempts on the current cases, which the catalog pairs."""
    rows = frame[frame["weights"].isin(["weights-0", "weights-1"]) & (frame["protocol"] == PROTOCOL_VERSION)]
    wanted = attempts[attempts["run_id"].isin(rows["run_id"].unique())].sort_values(["finished_at", "attempt"])
    newest = wanted.drop_duplicates(["run_id", "case_id"], keep="last")
    now = cases.sort_values("ingested_at").drop_duplicates(["cohort", "case_id"], keep="last")
    current = newest.merge(now.drop(columns="ingested_at"), on=["cohort", "case_id", "case_digest"])
    found = current[["run_id", "case_id", "attempt", "patient_id", "split"]]
    return rows.drop(columns=["patient_id", "split"]).merge(found, on=["run_id", "case_id", "attempt"])


def measure_compaction(root: Path, files: int) -> None:
    """Compact the files of every run while readers query."""
    runs, cases = 2, max(files // 2, 1) * 2
    store = write_synthetic_store(root, rows=runs * cases * N_STRUCTURES, files_per_run=files // runs, runs=runs)
    context = multiprocessing.get_context("spawn")
    stop, found = context.Event(), context.Queue()
    expected = runs * cases * N_STRUCTURES
    readers = [context.Process(target=read_until, args=(stop, store, expected, found)) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    time.sleep(5)
    start = time.perf_counter()
    for number in range(runs):
        compact_scores(store, SyntheticRun(number).run_id)
    seconds = time.perf_counter() - start
    time.sleep(3)
    stop.set()
    answers = [found.get() for _ in readers]
    for reader in readers:
        reader.join()
    queries, wrong = sum(made for made, _ in answers), [text for _, text in answers if text]
    print(f"compaction: {files} files in {seconds:.1f} s, {queries} queries of {READERS} readers, wrong: {wrong or 0}")


def read_until(stop: Event, store: StoreLayout, expected: int, found: "Queue[tuple[int, str | None]]") -> None:
    """Query until `stop` is set; report the number of queries and the first wrong answer or error."""
    made, wrong = 0, None
    while not stop.is_set() and wrong is None:
        try:
            with connect(store) as con:
                query = "SELECT count(*), count(DISTINCT (run_id, case_id, structure)) FROM scores"
                answer = con.execute(query).fetchall()[0]
            wrong = None if answer == (expected, expected) else f"{answer} instead of {expected}"
        except Exception as error:  # noqa: BLE001 - any error of a reader is a finding
            wrong = repr(error)
        made += 1
    found.put((made, wrong))


def best_of(work: Callable[[], Any], rounds: int = ROUNDS) -> tuple[float, float, Any]:
    """Wall seconds of the fastest round, its CPU seconds and its answer."""
    best: tuple[float, float, Any] = (float("inf"), 0.0, None)
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        answer = work()
        seconds = time.perf_counter() - wall
        if seconds < best[0]:
            best = (seconds, time.process_time() - cpu, answer)
    return best


def _scores(con: duckdb.DuckDBPyConnection) -> pa.Table:
    columns = [*_KEYS, "patient_id", "status", "empty", "cohort", "case_id", "prompt", "prompt_id", "settings_id"]
    listed = ", ".join(f'"{name}"' for name in columns)
    return con.sql(f"SELECT {listed}, attempt, protocol, weights, in_training, dice FROM scores").to_arrow_table()


def _ledger(con: duckdb.DuckDBPyConnection) -> tuple[pa.Table, pa.Table]:
    """Attempts and cases, with the columns that decide if a row is current."""
    attempts = """
    SELECT o.run_id, r.cohort, o.case_id, o.attempt, o.case_digest, o.finished_at
    FROM outcomes AS o JOIN runs AS r ON r.run_id = o.run_id"""
    cases = "SELECT cohort, case_id, case_digest, patient_id, split, ingested_at FROM cases"
    return con.sql(attempts).to_arrow_table(), con.sql(cases).to_arrow_table()


def _report(name: str, ours: tuple[float, float, Any], theirs: tuple[float, float, Any], kind: str) -> None:
    wall, cpu = (theirs[part] / ours[part] for part in (0, 1))
    print(
        f"{name}: {ours[0]:.2f} s ({ours[1]:.2f} s CPU), pandas with {kind} {theirs[0]:.2f} s ({theirs[1]:.2f} s CPU): "
        f"{wall:.1f} times ({cpu:.1f} by CPU)"
    )


def _check_leaderboards(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    for column in ("planned", "scored", "failed", "dice_mean", "dice_mean_failures_as_zero", "dice_low", "dice_high"):
        np.testing.assert_allclose(ours[column].astype(float), theirs[column].astype(float), atol=1e-9, rtol=0)


def _check_pairs(ours: pa.Table, theirs: pd.DataFrame) -> None:
    assert len(ours) == len(theirs)
    total = float(theirs["difference_dice"].sum())
    np.testing.assert_allclose(float(ours.to_pandas()["difference_dice"].sum()), total, atol=1e-6, rtol=0)


if __name__ == "__main__":
    main()
