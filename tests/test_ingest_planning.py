import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsam3_core.errors import UsageError
from storage.cohorts import latest_cases, read_cohort
from storage.ingest_planning import IngestPlan, plan_ingest
from storage.readers.phantom import PhantomSource
from storage.readers.phantom_files import write_phantom_dataset
from storage.store_layout import StoreLayout, open_store
from storage.writer_lock import ingesting
from tests.small_store import ingest_here


def plan(store: StoreLayout, source: str, *, split: str | None = None, limit: int = 0) -> IngestPlan:
    return plan_ingest(store, source, "eyes", "auto", None, split, limit)


def pending(found: IngestPlan) -> list[str]:
    return [case.case_id for case, _ in found.pending]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_phantom_dataset(tmp_path / "source", PhantomSource.parse("phantom:fundus,cases=4,size=48x48"), "image-pairs")
    return tmp_path / "source"


def test_everything_is_read_once_and_then_left_alone(store: StoreLayout, source: Path) -> None:
    assert len(pending(ingest_here(store, str(source), "eyes"))) == 4
    again = plan(store, str(source))
    assert (pending(again), again.unchanged) == ([], 4)


def test_a_file_that_changed_is_read_again_alone(store: StoreLayout, source: Path) -> None:
    ingest_here(store, str(source), "eyes")
    changed = sorted((source / "images").rglob("*.png"))[0]
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(changed)
    again = plan(store, str(source))
    assert (len(again.pending), again.unchanged) == (1, 3)
    digests = dict(latest_cases(store, "eyes")[["case_id", "case_digest"]].to_numpy())
    ingest_here(store, str(source), "eyes")
    newer = dict(latest_cases(store, "eyes")[["case_id", "case_digest"]].to_numpy())
    assert [name for name in newer if newer[name] != digests[name]] == pending(again)


def test_a_case_that_was_rejected_is_read_again(store: StoreLayout, source: Path) -> None:
    broken = sorted((source / "images").rglob("*.png"))[0]
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    ingest_here(store, str(source), "eyes")
    rejected = latest_cases(store, "eyes").query("status == 'rejected'")
    assert len(rejected) == 1
    assert broken.name in rejected["reason"].item()
    assert pending(plan(store, str(source))) == rejected["case_id"].tolist()


def test_a_limit_takes_the_first_cases(store: StoreLayout, source: Path) -> None:
    assert len(plan(store, str(source), limit=2).pending) == 2


def test_a_split_given_by_hand_beats_that_of_the_recipe(store: StoreLayout, source: Path) -> None:
    assert {case.split for case, _ in plan(store, str(source), split="external").pending} == {"external"}
    assert {case.split for case, _ in plan(store, str(source)).pending} == {"train", "test"}


def test_the_same_case_id_from_another_folder_is_kept_apart_and_rejected(
    store: StoreLayout, source: Path, tmp_path: Path
) -> None:
    ingest_here(store, str(source), "eyes")
    copy = tmp_path / "elsewhere" / source.name
    shutil.copytree(source, copy)
    ingest_here(store, str(copy), "eyes")
    cases = latest_cases(store, "eyes")
    assert (cases["status"] == "accepted").sum() == 4
    assert cases.query("status == 'rejected'")["reason"].str.contains("exists in this cohort from").all()
    assert len(read_cohort(store, "eyes").sources) == 2


def test_a_folder_without_cases_is_an_error_that_names_it(store: StoreLayout, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty"):
        plan(store, str(tmp_path / "empty"))


@pytest.mark.parametrize(("name", "split"), [("../eyes", None), ("eyes", "a/b")])
def test_names_that_could_leave_their_folder_are_refused(store: StoreLayout, name: str, split: str | None) -> None:
    with pytest.raises(UsageError, match="may hold 1 to 100 letters"):
        plan_ingest(store, "phantom:ct", name, "auto", None, split, 0)


def test_an_unknown_reader_lists_those_that_exist(store: StoreLayout, source: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown reader 'dicoom'.*chase_db1"):
        plan_ingest(store, str(source), "eyes", "dicoom", None, None, 0)


def test_who_ingests_into_a_cohort_waits_for_who_does_so_already(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    told: list[str] = []
    order: list[str] = []

    def second() -> None:
        with ingesting(store, "cells", told.append):
            order.append("second")

    with ingesting(store, "cells", told.append):
        waiting = threading.Thread(target=second)
        waiting.start()
        while not told:
            time.sleep(0.01)
        with ingesting(store, "others", told.append):
            order.append("first")
    waiting.join(30)
    assert order == ["first", "second"]
    who = f"cohort cells is being ingested by process {os.getpid()}"
    assert told == [f"{who}; wait for it or stop it (this process waits)"]
