"""`medsam3 ingest --check` as people call it."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.preflight import write_pairs
from flows.cli.entry import cli
from flows.cli.work.check import check_source
from storage.ingest.plan import IngestRequest
from storage.sources.registry import find_reader
from tests.storage.sources.datasets import published_2d


def tree(folder):
    return sorted(os.path.join(root, name) for root, folders, names in os.walk(folder) for name in (*folders, *names))


def test_check_writes_nothing_and_ends_with_0_where_nothing_is_found(tmp_path) -> None:
    folder = published_2d.tn3k(tmp_path / "tn3k").folder
    before = tree(tmp_path)
    finished = CliRunner().invoke(cli, ["ingest", str(folder), "--check", "--store", str(tmp_path / "store")])
    assert finished.exit_code == 0, finished.output
    assert "recipe tn3k, layout image-pairs" in finished.output
    assert "nothing found" in finished.output
    assert tree(tmp_path) == before


def test_findings_end_with_1_and_json_holds_them_all(tmp_path) -> None:
    folder = published_2d.tn3k(tmp_path / "tn3k").folder
    (folder / "tn3k" / "test-mask" / "0000.jpg").unlink()
    store = str(tmp_path / "store")
    arguments = ["ingest", str(folder), "--reader", "tn3k", "--check", "--format", "json", "--store", store]
    finished = CliRunner().invoke(cli, arguments)
    assert finished.exit_code == 1
    answer = json.loads(finished.stdout)
    assert (answer["passed"], answer["cases"], answer["usable"]) == (False, 3, 2)
    assert answer["counts"] == {"missing-reference": 1}
    assert answer["splits"] == {"test": {"cases": 1, "patients": 1}, "train": {"cases": 2, "patients": 2}}
    assert answer["structures"] == {"nodule": {"cases": 2, "instances": 3}}
    assert answer["sizes"] == [{"shape_zyx": [1, 40, 56], "cases": 2}]
    assert answer["files"]["used"] == 5
    assert answer["findings"][0]["kind"] == "missing-reference"


def test_pixels_in_two_instances_are_a_note_and_no_finding(tmp_path) -> None:
    folder = published_2d.dsb18(tmp_path / "dsb18").folder
    masks = sorted(next(path for path in folder.iterdir() if path.is_dir()).glob("masks/*.png"))
    first, second = (np.array(Image.open(path)) for path in masks[:2])
    second.flat[np.flatnonzero(first)[:3]] = 255
    published_2d.save(masks[1], second)
    preflight = check_source(IngestRequest(str(folder), ""), None)
    assert not preflight.findings
    assert "3 pixels in 1 cases lie in two instances; one of the two keeps each of them" in preflight.notes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--format", "json", "--cohort", "a"], "--format is for --check"), ([], "--cohort is missing")],
)
def test_options_that_contradict_each_other_are_refused(tmp_path, arguments, message) -> None:
    finished = CliRunner().invoke(cli, ["ingest", str(tmp_path), *arguments])
    assert finished.exit_code == 2
    assert message in finished.output


def test_many_cases_are_checked_by_several_processes_in_order(tmp_path) -> None:
    write_pairs(tmp_path, 100, 32)
    preflight = check_source(IngestRequest(str(tmp_path), ""), None)
    assert [check.case_id for check in preflight.checks] == [f"{number:06d}" for number in range(100)]
    assert preflight.findings == ()


def test_100_000_files_in_one_folder_are_listed_as_50_000_pairs(tmp_path) -> None:
    for number in range(50_000):
        for ending in (".png", "_mask.png"):
            os.close(os.open(f"{tmp_path}/{number:06d}{ending}", os.O_CREAT))
    layout, recipe = find_reader(str(tmp_path))
    cases = layout.list_cases(tmp_path, recipe)
    assert (len(cases), cases[-1].case_id) == (50_000, "049999")
    assert all(case.references and case.reject_reason is None for case in cases)


@pytest.mark.slow
def test_100_000_files_are_checked(tmp_path) -> None:
    write_pairs(tmp_path, 50_000, 32)
    preflight = check_source(IngestRequest(str(tmp_path), ""), None)
    assert (len(preflight.checks), preflight.files.used, preflight.findings) == (50_000, 100_000, ())
