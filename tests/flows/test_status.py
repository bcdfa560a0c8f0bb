import io
from pathlib import Path

import pytest
from rich.console import Console

from flows.cli.answers.status import run_status
from flows.cli.upkeep.weights import accepted_prompts, print_weights
from flows.messages.formatting import format_size
from medsam3_core.capabilities import Capabilities
from medsam3_core.errors import StoreError
from storage.store.atomic import TEMPORARY_PREFIX
from storage.store.layout import StoreLayout
from storage.upkeep.status import read_status
from storage.weights.registry import find_weights
from tests.stores.planted import plant_cohort, plant_run
from tests.stores.small import ingest_here


def printed(root: Path) -> str:
    text = io.StringIO()
    run_status(root, Console(file=text, width=100))
    return text.getvalue()


def test_cohorts_are_counted_by_split_with_their_licence(phantom_run: StoreLayout) -> None:
    status = {cohort.name: cohort for cohort in read_status(phantom_run).cohorts}
    assert (status["ct"].accepted, status["ct"].rejected, status["ct"].licence) == (5, 0, "CC0 1.0")
    assert status["ct"].splits == {"test": 1, "train": 4}


def test_runs_are_counted_in_cases_not_in_rows(phantom_run: StoreLayout) -> None:
    runs = [run for run in read_status(phantom_run).runs if run.cohort == "ct"]
    assert [(run.planned, run.scored, run.failed, run.pending) for run in runs] == [(5, 5, 0, 0)] * 2


def test_planned_is_scored_and_failed_and_pending(store: StoreLayout) -> None:
    ingest_here(store, "phantom:ct,cases=1,size=6x32x32", "ct")
    cases = plant_cohort(store, "ct", 6, ("liver", "spleen"))
    plant_run(store, cases, "sam", lambda _: 0.5, failed={"case_0000_0", "case_0001_0"})
    plant_cohort_change(store, cases[2])
    (run,) = read_status(store).runs
    assert (run.planned, run.scored, run.failed, run.pending) == (6, 3, 2, 1)
    text = printed(store.root)
    assert "To compute pending cases, run the same medsam3 benchmark again." in text
    assert 'medsam3 sql "SELECT * FROM failures"' in text


def plant_cohort_change(store: StoreLayout, case: dict[str, object]) -> None:
    from storage.cohorts.cohorts import write_cases
    from storage.store.layout import utc_now

    write_cases(store, "ct", [case | {"case_digest": "changed", "ingested_at": utc_now()}])


def test_the_tables_fit_into_100_columns(phantom_run: StoreLayout) -> None:
    lines = printed(phantom_run.root).splitlines()
    assert max(map(len, lines[:-1])) <= 100
    assert any("baseline:otsu" in line and " box " in line for line in lines)


def test_what_a_killed_process_left_is_counted(store: StoreLayout) -> None:
    ingest_here(store, "phantom:ct,cases=1,size=6x32x32", "ct")
    before = read_status(store)
    (store.root / f"{TEMPORARY_PREFIX}12345678-x").write_bytes(b"x" * 1000)
    after = read_status(store)
    assert (before.leftovers, after.leftovers) == (0, 1)
    assert after.size_bytes - before.size_bytes == 1000
    assert "1 unfinished file of a killed or running process" in " ".join(printed(store.root).split())


def test_a_store_without_runs_says_what_comes_next(store: StoreLayout) -> None:
    ingest_here(store, "phantom:ct,cases=1,size=6x32x32", "ct")
    assert "No run yet: medsam3 benchmark" in printed(store.root)


def test_a_store_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store at"):
        run_status(tmp_path / "absent")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 KB"), (12_345_678, "12.3 MB"), (5e15, "5e+03 TB")]
)
def test_sizes_are_read_by_people(size: int, text: str) -> None:
    assert format_size(size) == text


def test_weights_say_what_they_take(store: StoreLayout) -> None:
    text = io.StringIO()
    print_weights([find_weights(store, "baseline:box")], Console(file=text, width=100))
    assert "baseline:box@1" in text.getvalue()
    assert max(map(len, text.getvalue().splitlines())) <= 100
    assert accepted_prompts(Capabilities(text=True, box=True, interactive=True)) == ["text", "box", "points", "mask"]
