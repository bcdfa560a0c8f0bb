"""On the way of a command nothing is done twice: a benchmark is planned, a source resolved and listed once."""

import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.benchmark import benchmark_cohorts
from storage.sources.registry import LAYOUTS
from storage.store.layout import StoreLayout
from tests.command_line import Medsam3, command_line
from tests.journeys.archives.test_dicom_faults import listed
from tests.journeys.archives.test_segment import boxes_file
from tests.journeys.archives.written_dicom import ct_slices, save
from tests.stores.small import ingest_here

pytestmark = pytest.mark.timeout(600)
ONCE = (
    "storage.runs.plan.pending",
    "storage.sources.registry.find_reader",
    "storage.sources.layouts.archive.list_archive",
)
USERS = ("flows.benchmark", "flows.ingest", "flows.segment", "flows.service.prepared", "flows.cli.work.benchmark")
ASKED = ("benchmark", "--cohort", "eyes", "--weights", "baseline:otsu", "--prompt", "box", "--split", "all")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each of `ONCE`, and `list_cases` of any layout, was called."""
    found: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def counted(*values: object, **named: object) -> object:
            found[name] += 1
            return function(*values, **named)

        return counted

    for module in USERS:
        importlib.import_module(module)
    for path in ONCE:
        home, _, name = path.rpartition(".")
        function = getattr(importlib.import_module(home), name)
        counted = counting(name, function)
        for module in [*sys.modules.values()]:
            if getattr(module, name, None) is function:
                monkeypatch.setattr(module, name, counted)
    for layout in {type(layout) for layout in LAYOUTS.values()}:
        monkeypatch.setattr(layout, "list_cases", counting("list_cases", layout.list_cases))
    return found


@pytest.fixture
def here(
    store: StoreLayout,
    prefect_server: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Medsam3]:
    """The command line in this process, against a real server."""
    with temporary_settings({PREFECT_API_URL: prefect_server["PREFECT_API_URL"]}):
        yield command_line(store.root, monkeypatch, capsys)


def test_a_benchmark_is_planned_once_and_without_work_asks_no_server(
    store: StoreLayout, here: Medsam3, calls: Counter[str]
) -> None:
    ingest_here(store, "phantom:fundus,cases=3,size=64x64", "eyes")
    calls.clear()
    assert "computed 3 scored" in here(*ASKED, "--cluster", "threads:1").err
    assert calls == {"pending": 1}
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        for words in (ASKED, ("benchmark",), ("benchmark", "--plan")):
            calls.clear()
            ended = here(*words)
            assert "nothing to compute" in ended.out + ended.err
            assert calls == {"pending": 1}


def test_a_flow_of_a_deployment_gives_the_same_answer(
    store: StoreLayout, here: Medsam3, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest_here(store, "phantom:fundus,cases=3,size=64x64", "eyes")
    here(*ASKED, "--cluster", "threads:1")
    summary = benchmark_cohorts(store=str(store.root), cluster="threads:1")
    assert (summary.computed, summary.fresh) == ({}, 3)
    assert "nothing to compute: 3 results are up to date" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more", [("--cohort", "eyes", "--cluster", "threads:1"), ("--check",)], ids=["ingest", "check"]
)
def test_an_ingest_resolves_and_lists_its_source_once(
    here: Medsam3, calls: Counter[str], tmp_path: Path, more: tuple[str, ...]
) -> None:
    save(tmp_path / "archive", ct_slices(4))
    here("ingest", tmp_path / "archive", *more)
    assert calls == {"find_reader": 1, "list_cases": 1, "list_archive": 1}


@pytest.mark.parametrize("form", ["nifti", "dicom-seg"])
def test_a_segmentation_resolves_and_lists_its_source_once(
    here: Medsam3, calls: Counter[str], tmp_path: Path, form: str
) -> None:
    save(tmp_path / "archive", ct_slices(6))
    (case,) = listed(tmp_path / "archive")[2]
    boxes = boxes_file(tmp_path / "boxes.csv", case.case_id)
    calls.clear()
    words = ("segment", tmp_path / "archive", "--weights", "baseline:box", "--prompts", boxes, "--format", form)
    ended = here(*words, "--out", tmp_path / "out", "--cluster", "threads:1")
    assert "1 segmented" in ended.err
    assert calls == {"find_reader": 1, "list_cases": 1, "list_archive": 1}
