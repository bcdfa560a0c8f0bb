"""`weights add`, `list` and `check`: whole or refused, named by digest, from files and from the Hugging Face cache."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from medsam3_core.errors import UsageError, WeightsError, WeightsMismatchError
from storage.store.atomic import read_json, write_json
from storage.store.layout import StoreLayout
from storage.weights.checkpoints import write_untrained
from storage.weights.registry import (
    add_weights,
    find_weights,
    load_segmenter,
    load_unregistered,
    registered_weights,
)
from tests.command_line import Medsam3, command_line

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny"
    write_untrained(path, seed=3)
    return path


@pytest.fixture
def medsam3(store: StoreLayout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Medsam3:
    return command_line(store.root, monkeypatch, capsys)


def changed(folder: Path, target: Path, change) -> Path:
    """A copy of a folder with other tensors."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_added_weights_say_what_was_matched_and_can_be_found(
    medsam3: Medsam3, store: StoreLayout, folder: Path
) -> None:
    done = medsam3("weights", "add", "tiny", folder, "--licence", "none")
    found = find_weights(store, "tiny")
    assert f"{found.matched} keys matched, 0 missing, 0 unexpected, {found.dropped} dropped on purpose" in done.err
    assert found.matched > 300
    assert (found.version, found.note, found.resolutions, found.revision) == (1, "none", (224, 112), "")
    assert found.sha256[:12] in medsam3("weights", "list").out
    assert "keys matched" in medsam3("weights", "check", "tiny@1").err
    assert "keys matched" in medsam3("weights", "check", folder).err


def test_the_same_tensors_again_are_the_version_that_they_are(store: StoreLayout, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_untrained(other, seed=4)
    versions = [add_weights(store, "tiny", path).version for path in (folder, folder, other)]
    assert versions == [1, 1, 2]
    assert find_weights(store, "tiny@1").sha256 != find_weights(store, "tiny").sha256


@pytest.mark.parametrize(
    ("files", "words", "note"),
    [
        ({"README.md": "---\nlicense: other\nlicense_name: sam-license\n---\n# SAM"}, (), "sam-license"),
        ({"README.md": "# license: no head", "LICENSE.txt": "\n# SAM License\nLast updated"}, (), "SAM License"),
        ({"LICENSE": "SAM License"}, ("--licence", "by contract"), "by contract"),
        ({}, (), ""),
    ],
)
def test_the_licence_note_is_what_the_user_or_the_folder_says(
    medsam3: Medsam3, folder: Path, tmp_path: Path, files: dict[str, str], words: tuple[str, ...], note: str
) -> None:
    shutil.copytree(folder, tmp_path / "own")
    for name, text in files.items():
        (tmp_path / "own" / name).write_text(text)
    done = medsam3("weights", "add", "noted", tmp_path / "own", *words)
    assert note in done.out
    assert ("no licence note" in done.err) is not bool(note)


def test_weights_that_do_not_match_are_refused_with_the_first_ten_keys(
    medsam3: Medsam3, store: StoreLayout, folder: Path, tmp_path: Path
) -> None:
    def drop(tensors):
        for name in [name for name in tensors if name.startswith("mask_decoder.")]:
            del tensors[name]

    partial = changed(folder, tmp_path / "partial", drop)
    for command in (("add", "tiny"), ("check",)):
        done = medsam3("weights", *command, partial, code=2)
        assert "tensors are missing and 0 are unexpected" in done.err
        assert done.err.count("missing mask_decoder.") == 10
        assert "more" in done.err
    assert registered_weights(store) == []


def test_values_that_are_not_finite_are_refused_when_added(store: StoreLayout, folder: Path, tmp_path: Path) -> None:
    def spoil(tensors):
        tensors["detr_decoder.output_layer_norm.bias"][0] = torch.nan

    with pytest.raises(WeightsError, match=r"detr_decoder\.output_layer_norm\.bias holds NaN or infinite"):
        add_weights(store, "tiny", changed(folder, tmp_path / "nan", spoil))


def test_weights_that_changed_since_are_refused_by_name(
    medsam3: Medsam3, store: StoreLayout, folder: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(folder, tmp_path / "mine"))
    medsam3("weights", "add", "tiny", mine)
    (mine / "config.json").write_text((mine / "config.json").read_text() + "\n")
    assert "has changed since tiny@1 was registered" in medsam3("weights", "check", "tiny", code=2).err
    shutil.rmtree(mine)
    assert "is missing; restore it" in medsam3("weights", "check", "tiny", code=2).err


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("tiny-untrained", ".", "is built in; choose another"),
        ("a/b", ".", "use 1 to 100 letters"),
        ("tiny", "absent.pt", "no weights at absent.pt"),
        ("tiny", "hf://facebook", "is not hf://owner/name"),
    ],
)
def test_names_and_paths_that_cannot_be_are_refused(medsam3: Medsam3, name: str, path: str, message: str) -> None:
    assert message in medsam3("weights", "add", name, path, code=2).err


def test_a_registry_without_the_newer_fields_is_read(store: StoreLayout, folder: Path) -> None:
    added = asdict(add_weights(store, "tiny", folder))
    older = {key: added[key] for key in ("name", "version", "sha256", "path", "layout", "capabilities")}
    write_json(store.registry_json(), {"weights": [older]})
    (found,) = registered_weights(store)
    assert (found.matched, found.resolutions, found.base, found.source) == (0, (), None, "")
    assert load_segmenter(found, "cpu").capabilities.text


# ---- The Hugging Face hub, offline ----


@pytest.fixture
def filled_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as the hub's client leaves it: names are links to nameless blobs; and no network."""
    repository = tmp_path / "home" / "hub" / "models--clinic--tiny-sam3"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, repository / "blobs" / f"{number:040x}")
        (snapshot / file.name).symlink_to(repository / "blobs" / f"{number:040x}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return snapshot


@pytest.mark.parametrize("location", ["hf://clinic/tiny-sam3", "hf://clinic/tiny-sam3/model.safetensors"])
def test_weights_of_the_hub_are_added_offline_with_their_revision(
    medsam3: Medsam3, store: StoreLayout, filled_cache: Path, location: str
) -> None:
    done = medsam3("weights", "add", "hub", location)
    found = find_weights(store, "hub")
    assert (found.source, found.revision) == (location, COMMIT)
    assert found.path is not None
    assert Path(found.path).is_relative_to(filled_cache)  # a blob would have no suffix and no config beside it
    assert f"at revision {COMMIT}" in done.err
    assert load_segmenter(found, "cpu").capabilities.box


def test_what_is_not_in_the_cache_says_what_to_do(medsam3: Medsam3, filled_cache: Path) -> None:
    done = medsam3("weights", "add", "hub", "hf://clinic/absent", code=2)
    assert "not in the local cache, and the hub is offline" in done.err


# ---- Adapters ----


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "adapter"
    path.mkdir()
    name = "detr_encoder.layers.0.mlp.fc1"
    shape = load_file(folder / "model.safetensors")[f"{name}.weight"].shape
    tensors = {
        f"base_model.model.{name}.lora_A.weight": torch.ones(2, shape[1]),
        f"base_model.model.{name}.lora_B.weight": torch.ones(shape[0], 2),
    }
    save_file(tensors, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "lora_alpha": 4, "r": 2, "base_model_name_or_path": None}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


def test_an_adapter_is_registered_on_its_named_base(
    medsam3: Medsam3, store: StoreLayout, folder: Path, adapter: Path
) -> None:
    base = add_weights(store, "tiny", folder)
    assert "name its weights with --base" in medsam3("weights", "add", "tuned", adapter, code=2).err
    medsam3("weights", "add", "tuned", adapter, "--base", "tiny")
    tuned = find_weights(store, "tuned")
    assert (tuned.base, tuned.layout) == (base.path, "lora")
    assert tuned.sha256 not in (base.sha256, "")
    assert load_segmenter(tuned, "cpu").capabilities.text
    assert read_json(store.registry_json())["weights"][1]["base"] == base.path


def test_an_adapter_that_names_registered_weights_needs_no_option(
    medsam3: Medsam3, store: StoreLayout, folder: Path, adapter: Path
) -> None:
    base = add_weights(store, "tiny", folder)
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": "tiny"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    medsam3("weights", "add", "tuned", adapter)
    assert find_weights(store, "tuned").base == base.path
    assert load_unregistered(store, str(adapter), "cpu").capabilities.text


def test_a_base_for_whole_weights_is_refused(store: StoreLayout, folder: Path) -> None:
    with pytest.raises(WeightsError, match="holds whole weights, not a LoRA adapter; leave out --base"):
        add_weights(store, "tiny", folder, base=str(folder))
    with pytest.raises(UsageError, match="baseline:box has no tensors"):
        add_weights(store, "tiny", folder, base="baseline:box")


def test_an_adapter_of_another_model_is_refused(store: StoreLayout, folder: Path, adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {key.replace("detr", "bert"): value for key, value in tensors.items()}, adapter / "adapter_model.safetensors"
    )
    with pytest.raises(WeightsMismatchError, match="fit nothing in its base"):
        add_weights(store, "tuned", adapter, base=str(folder))
