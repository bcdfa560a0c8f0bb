import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsam3_core.cases.cases import CaseSource
from medsam3_core.errors import UsageError
from storage.cohorts.cohorts import latest_cases, read_cohort
from storage.cohorts.volumes import open_case_volume
from storage.ingest.journal import _LISTED, is_ingested, note_listed, vanished
from storage.ingest.plan import IngestPlan, IngestRequest, plan_ingest
from storage.sources.layouts.phantom import PhantomSource
from storage.store.layout import StoreLayout, open_store
from storage.store.schemas import CASES
from storage.store.tables import read_file, read_table
from storage.store.writers import ingesting
from tests.phantom_files import write_phantom_dataset
from tests.stores.small import ingest_here


def plan(store: StoreLayout, source: str, *, split: str | None = None, limit: int = 0) -> IngestPlan:
    return plan_ingest(store, IngestRequest(source, "eyes", split=split, limit=limit))


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


@pytest.mark.parametrize("kind", ["fundus", "ct"])
def test_a_volume_that_was_lost_is_written_again(store: StoreLayout, kind: str) -> None:
    source = f"phantom:{kind},cases=2,size=6x48x48" if kind == "ct" else f"phantom:{kind},cases=2,size=48x48"
    ingest_here(store, source, "eyes")
    before = latest_cases(store, "eyes").set_index("case_id")["case_digest"]
    lost = store.volume("eyes", f"{kind}_001", zipped=kind == "fundus")
    shutil.move(lost, lost.with_name("aside"))
    again = ingest_here(store, source, "eyes")
    assert (pending(again), again.unchanged) == ([f"{kind}_001"], 1)
    assert open_case_volume(lost).case_digest == before[f"{kind}_001"]
    assert latest_cases(store, "eyes").set_index("case_id")["case_digest"].equals(before)
    assert plan(store, source).unchanged == 2


def rows_of(store: StoreLayout, case_id: str) -> list[str]:
    """How a case ended in each of its rows, oldest first."""
    table = read_table(store.cases("eyes"), CASES, columns=["case_id", "ingested_at", "status"]).sort_by("ingested_at")
    return [row["status"] for row in table.to_pylist() if row["case_id"] == case_id]


def test_a_case_that_is_rejected_as_before_gets_no_second_row(store: StoreLayout, source: Path) -> None:
    broken = sorted((source / "images").rglob("*.png"))[0]
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    ingest_here(store, str(source), "eyes")
    (case_id,) = latest_cases(store, "eyes").query("status == 'rejected'")["case_id"]
    assert pending(ingest_here(store, str(source), "eyes")) == [case_id]
    assert is_ingested(store, "eyes")
    assert rows_of(store, case_id) == ["rejected"]
    broken.write_bytes(content[: len(content) // 3])
    ingest_here(store, str(source), "eyes")
    assert rows_of(store, case_id) == ["rejected", "rejected"]
    broken.write_bytes(content)
    ingest_here(store, str(source), "eyes")
    ingest_here(store, str(source), "eyes")
    assert rows_of(store, case_id) == ["rejected", "rejected", "accepted"]


def test_a_limit_takes_the_first_cases(store: StoreLayout, source: Path) -> None:
    assert len(plan(store, str(source), limit=2).pending) == 2


def test_a_limit_holds_for_what_a_killed_ingest_had_listed(store: StoreLayout, source: Path) -> None:
    plan(store, str(source))  # and killed
    limited = plan(store, str(source), limit=1)
    assert len(limited.pending) == 1
    ingest_here(store, str(source), "eyes", limit=1)
    assert len(latest_cases(store, "eyes")) == 1
    assert not is_ingested(store, "eyes")
    (read,) = latest_cases(store, "eyes")["source"]
    for file in source.rglob("*.png"):
        if file.stem != Path(read).stem:
            file.unlink()
    ingest_here(store, str(source), "eyes")
    assert latest_cases(store, "eyes")["status"].tolist() == ["accepted", "rejected", "rejected", "rejected"]
    assert is_ingested(store, "eyes")


def test_a_limit_holds_for_vanished_cases_too(store: StoreLayout, source: Path) -> None:
    plan(store, str(source))
    images = sorted((source / "images").rglob("*.png"))
    for file in source.rglob("*.png"):
        if file.stem != images[0].stem:
            file.unlink()
    assert len(plan(store, str(source), limit=2).pending) == 2
    assert len(plan(store, str(source)).pending) == 4


def test_a_finished_source_leaves_the_journal_of_another_alone(
    store: StoreLayout, source: Path, tmp_path: Path
) -> None:
    plan(store, str(source))  # and killed
    other = tmp_path / "other" / source.name
    write_phantom_dataset(other, PhantomSource.parse("phantom:fundus,cases=2,seed=5,size=48x48"), "image-pairs")
    for number, file in enumerate(sorted(other.rglob("*.png"), key=lambda file: (file.stem, str(file)))):
        file.rename(file.with_stem(f"other_{number // 2}"))
    finished = ingest_here(store, str(other), "eyes")
    assert len(finished.pending) == 2
    assert not is_ingested(store, "eyes")
    lost = sorted((source / "images").rglob("*.png"))[3]
    for file in source.rglob(lost.name):
        file.unlink()
    ingest_here(store, str(source), "eyes")
    cases = latest_cases(store, "eyes")
    assert cases["status"].tolist().count("accepted") == 5
    assert cases.query("status == 'rejected'")["source"].tolist() == [str(lost.relative_to(source))]
    assert is_ingested(store, "eyes")


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
    with pytest.raises(UsageError, match="use 1 to 100 letters"):
        plan_ingest(store, IngestRequest("phantom:ct", name, split=split))


def test_an_unknown_reader_lists_those_that_exist(store: StoreLayout, source: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown reader 'dicoom'.*chase_db1"):
        plan_ingest(store, IngestRequest(str(source), "eyes", reader="dicoom"))


def test_the_journal_names_no_patient_and_rejects_what_vanished(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    named = CaseSource(
        "s1", "p-1f", None, ("DOE_JANE/IM1",), extra={"hidden": [["DOE_JANE", "p-1f"]], "shown": "p-1f/IM1"}
    )
    plain = CaseSource("s2", "s2", None, ("b.png",))
    note_listed(store, "scans", "/data", [named, plain])
    (file,) = (store.listed("scans")).glob("*.parquet")
    assert "DOE" not in str(read_file(file, _LISTED).to_pylist())
    gone = {case.case_id: case for case in vanished(store, "scans", "/data", set())}
    assert (gone["s2"].image, gone["s2"].reject_reason) == (plain.image, None)
    assert (gone["s1"].patient_id, gone["s1"].image) == ("p-1f", ())
    assert gone["s1"].reject_reason is not None
    assert gone["s1"].reject_reason.startswith("p-1f/IM1 was there when an ingest that was interrupted listed it")


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
