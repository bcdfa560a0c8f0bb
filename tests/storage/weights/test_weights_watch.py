"""What the watcher sees of files: real small weights, replaced, damaged, half-written, taken away."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from storage.store.layout import StoreLayout
from storage.weights.checkpoints import write_untrained
from storage.weights.registry import add_weights, find_weights, registered_weights
from storage.weights.watch import (
    Look,
    Seen,
    Sight,
    fingerprint,
    latest_versions,
    look_at,
    open_for_writing,
    read_seen,
    write_seen,
)

QUIET = 0.05


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three folders of weights with other tensors each."""
    folders = [tmp_path_factory.mktemp("versions") / f"seed{seed}" for seed in (3, 4, 5)]
    for seed, folder in enumerate(folders):
        write_untrained(folder, seed=seed)
    return folders


@pytest.fixture
def watched(store: StoreLayout, versions: list[Path], tmp_path: Path) -> Path:
    """A folder of registered weights, as `mine`."""
    folder = Path(shutil.copytree(versions[0], tmp_path / "mine"))
    add_weights(store, "mine", folder, licence="ours")
    return folder


def put(folder: Path, version: Path) -> None:
    """Replace the tensors, as a copy does: in place."""
    shutil.copyfile(version / "model.safetensors", folder / "model.safetensors")


def look(store: StoreLayout, seen: Seen | None = None) -> Look:
    return look_at(store, find_weights(store, "mine"), seen or Seen(), QUIET)


def test_nothing_new_is_found_once_by_digest_and_then_by_the_file_system(store: StoreLayout, watched: Path) -> None:
    first = look(store)
    assert (first.sight, first.message, first.latest.version) == (Sight.UNCHANGED, "", 1)
    assert first.seen.fingerprint == fingerprint([watched])
    assert look(store, first.seen) == first
    (watched / "model.safetensors").touch()
    again = look(store, first.seen)
    assert again.sight is Sight.UNCHANGED
    assert again.seen.fingerprint != first.seen.fingerprint


def test_other_tensors_become_the_next_version_and_the_old_one_stays(
    store: StoreLayout, watched: Path, versions: list[Path]
) -> None:
    seen = look(store).seen
    put(watched, versions[1])
    found = look(store, seen)
    assert found.sight is Sight.CHANGED
    old, new = registered_weights(store)
    assert (old.version, new.version, new.note) == (1, 2, "ours")
    assert found.message == f"mine@2 registered: sha256 {new.sha256[:12]}, was {old.sha256[:12]}"
    put(watched, versions[0])
    assert look(store, found.seen).latest.sha256 == old.sha256
    assert [item.version for item in registered_weights(store)] == [1, 2, 3]


def test_a_file_that_grows_while_it_is_looked_at_is_not_taken(
    store: StoreLayout, watched: Path, versions: list[Path]
) -> None:
    seen = look(store).seen
    file = watched / "model.safetensors"
    content = (versions[1] / file.name).read_bytes()
    file.write_bytes(content[:1000])

    def write_on(seconds: float) -> None:
        file.write_bytes(content)

    found = look_at(store, find_weights(store, "mine"), seen, QUIET, pause=write_on)
    assert (found.sight, found.seen) == (Sight.WRITING, seen)
    assert found.message.endswith("is still being written; not registered")
    assert look(store, seen).sight is Sight.CHANGED


def test_a_file_that_somebody_holds_open_for_writing_is_not_taken(
    store: StoreLayout, watched: Path, versions: list[Path]
) -> None:
    seen = look(store).seen
    put(watched, versions[1])
    with (watched / "model.safetensors").open("rb"):
        assert not open_for_writing([watched])
    with (watched / "model.safetensors").open("ab"):
        assert open_for_writing([watched])
        assert look(store, seen).sight is Sight.WRITING
    assert look(store, seen).sight is Sight.CHANGED


def test_what_cannot_be_loaded_is_told_once_and_changes_nothing(
    store: StoreLayout, watched: Path, versions: list[Path]
) -> None:
    seen = look(store).seen
    file = watched / "model.safetensors"
    file.write_bytes((versions[1] / file.name).read_bytes()[:-1000])
    found = look(store, seen)
    assert found.sight is Sight.UNLOADABLE
    assert "not a readable safetensors file" in found.message
    again = look(store, found.seen)
    assert (again.sight, again.message) == (Sight.UNLOADABLE, "")
    assert [item.version for item in registered_weights(store)] == [1]
    put(watched, versions[1])
    mended = look(store, again.seen)
    assert (mended.sight, mended.seen.problem, mended.latest.version) == (Sight.CHANGED, "", 2)


def test_a_path_that_disappears_is_told_once_and_may_come_back(store: StoreLayout, watched: Path) -> None:
    seen = look(store).seen
    aside = watched.rename(watched.with_name("aside"))
    found = look(store, seen)
    assert found.sight is Sight.GONE
    assert found.message.startswith(f"mine: {watched} is missing (No such file or directory); restore it")
    assert look(store, found.seen).message == ""
    aside.rename(watched)
    back = look(store, found.seen)
    assert (back.sight, back.seen) == (Sight.UNCHANGED, seen)


@pytest.fixture
def hub_cache(tmp_path: Path, versions: list[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The offline cache of a Hugging Face repository with two commits; `main` is the first."""
    import huggingface_hub.constants as constants

    repository = tmp_path / "hub" / "models--owner--tiny"
    for commit, version in zip("ab", versions, strict=False):
        shutil.copytree(version, repository / "snapshots" / (commit * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return repository


def test_a_new_commit_of_a_repository_is_a_new_version(store: StoreLayout, hub_cache: Path) -> None:
    add_weights(store, "mine", "hf://owner/tiny")
    seen = look(store).seen
    assert look(store, seen).sight is Sight.UNCHANGED
    (hub_cache / "refs" / "main").write_text("b" * 40)
    found = look(store, seen)
    assert (found.sight, found.latest.revision, found.latest.source) == (Sight.CHANGED, "b" * 40, "hf://owner/tiny")
    shutil.rmtree(hub_cache)
    gone = look(store, found.seen)
    assert gone.sight is Sight.GONE
    assert "hf://owner/tiny: not in the local cache" in gone.message


def test_what_was_seen_is_remembered_in_the_store(store: StoreLayout, watched: Path) -> None:
    assert read_seen(store) == {}
    seen = {"mine": replace(look(store).seen, announced=1)}
    write_seen(store, seen)
    assert read_seen(store) == seen
    assert {name: item.version for name, item in latest_versions(store).items()} == {"mine": 1}
