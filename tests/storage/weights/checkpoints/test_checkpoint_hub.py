"""Weights from the Hugging Face hub: locations, the offline cache, and what to do when it says no."""

import shutil

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from medsam3_core.errors import WeightsError
from storage.weights.checkpoints import (
    read_weights,
)
from storage.weights.checkpoints.hub import parse, resolve
from tests.storage.weights.checkpoints.checkpoints import same_tensors


@pytest.mark.parametrize(
    ("location", "parts"),
    [
        ("hf://facebook/sam3", ("facebook/sam3", None, None)),
        ("hf://facebook/sam3/sam3.pt", ("facebook/sam3", None, "sam3.pt")),
        ("hf://a/b@v2/folder/file.pt", ("a/b", "v2", "folder/file.pt")),
    ],
)
def test_hub_locations_are_split(location, parts):
    assert parse(location) == parts


def test_malformed_hub_locations_are_refused():
    with pytest.raises(WeightsError, match="hf://owner/name"):
        parse("hf://facebook")


@pytest.fixture
def filled_cache(tiny_folder, tmp_path, monkeypatch):
    """A cache folder as the hub's client leaves it, and no network."""
    repository = tmp_path / "hub" / "models--clinic--tiny-sam3"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(tiny_folder, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_a_filled_cache_serves_weights_offline(filled_cache, tiny_folder):
    same_tensors(read_weights("hf://clinic/tiny-sam3"), read_weights(tiny_folder))
    assert resolve("hf://clinic/tiny-sam3/model.safetensors") == filled_cache / "model.safetensors"


def test_offline_without_a_cache_says_what_to_do(filled_cache):
    with pytest.raises(WeightsError, match="not in the local cache, and the hub is offline"):
        resolve("hf://clinic/absent")
    with pytest.raises(WeightsError, match="no such file in the repository"):
        resolve("hf://clinic/tiny-sam3/other.pt")


@pytest.mark.parametrize(
    ("error", "match"), [(GatedRepoError, "is gated; ask for access"), (RepositoryNotFoundError, "no such repository")]
)
def test_gated_and_absent_repositories_say_what_to_do(monkeypatch, error, match):
    def refuse(*_args, **_options):
        raise error("refused", response=_response())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(WeightsError, match=match):
        read_weights("hf://facebook/sam3")


def _response():
    return httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co/facebook/sam3"))
