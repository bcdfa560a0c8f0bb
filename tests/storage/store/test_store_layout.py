import os
from pathlib import Path

import pytest

from medsam3_core.errors import StoreError, UsageError
from storage.store.layout import StoreLayout, check_name, existing_store, open_store


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "-x", "a b", "ä", "x" * 101, "a\n"])
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"cohort name .* letters, digits"):
        check_name("cohort", name)


@pytest.mark.parametrize("name", ["ct", "CHASE_DB1", "v1.2-rc_3", "0", "x" * 100])
def test_a_name_of_letters_digits_and_a_few_signs_is_taken(name: str) -> None:
    assert check_name("cohort", name) == name


def test_every_path_of_a_store_lies_below_its_root(store: StoreLayout) -> None:
    paths = [
        store.cohort_json("c"), store.cases("c"), store.volume("c", "x", zipped=True), store.prompts("c", "p"),
        store.registry_json(), *store.built_in_weights("w"), store.run_json("r"), store.plan("r"),
        store.outcomes("r"), store.prediction("r", "x"), store.scores("r"), store.catalog(), store.breadcrumbs(),
        store.writer_lock("r1"),
        store.writer_token("r1"),
    ]  # fmt: skip
    assert all(path.is_relative_to(store.root) for path in paths)
    assert len(set(paths)) == len(paths)


def test_one_slice_is_a_zip_and_a_volume_a_folder(store: StoreLayout) -> None:
    assert store.volume("c", "eye", zipped=True).name == "eye.ozx"
    assert store.volume("c", "scan", zipped=False).name == "scan.ome.zarr"
    assert store.prediction("r", "scan").name == "scan.ozx"


def test_cases_spread_over_256_folders_by_their_id(store: StoreLayout) -> None:
    folders = {store.prediction("r", f"case_{index}").parent.name for index in range(3000)}
    assert len(folders) == 256
    assert all(len(name) == 2 for name in folders)


def test_the_newest_generation_of_scores_counts_by_number_not_by_letter(store: StoreLayout) -> None:
    assert store.scores("r").name == "gen-0000"
    for name in ("gen-9999", "gen-10000", ".tmp-gen-99999", "notes"):
        (store.run("r") / "scores" / name).mkdir(parents=True)
    assert store.scores("r").name == "gen-10000"


def test_opening_a_store_makes_it_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    assert list(open_store(tmp_path / "new" / "store").root.iterdir()) == []


def test_a_store_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"store .*file is not writable .*--store"):
        open_store(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_without_write_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match=r"not writable \(Permission denied\)"):
        open_store(tmp_path)
    tmp_path.chmod(0o700)


def test_reading_a_store_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store at .*medsam3 ingest SOURCE --cohort NAME --store"):
        existing_store(tmp_path)
