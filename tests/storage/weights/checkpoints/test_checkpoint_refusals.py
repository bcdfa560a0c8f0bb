"""What is not a whole, finite, code-free SAM3 checkpoint is refused, by name and with a remedy."""

import argparse
import json
import pickle
import shutil

import pytest
import torch

from medsam3_core.errors import WeightsError, WeightsMismatchError
from medsam3_core.sam3.network.architecture import architecture_from
from medsam3_core.sam3.network.network import build_network, match_weights
from medsam3_core.sam3.tensors.precision import precision_for
from medsam3_core.settings.inference import Dtype
from storage.weights.checkpoints import (
    check_weights,
    open_segmenter,
    read_weights,
)
from tests.core.sam3.golden import GOLDEN, LAYOUTS
from tests.storage.weights.checkpoints.checkpoints import save_beside_config


def test_missing_and_unexpected_keys_are_named_first_ten(tmp_path, official, tiny_bare):
    fewer = {key: value for key, value in official.items() if not key.startswith("segmentation_head.")}
    file = save_beside_config(tmp_path, fewer, tiny_bare)
    with pytest.raises(WeightsMismatchError, match="tensors are missing") as caught:
        read_weights(file)
    assert str(caught.value).count("missing segmentation_head.") == 10
    assert "and 18 more" in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_check_tells_what_does_not_match_instead_of_refusing_it(tmp_path, official, tiny_bare):
    odd = {key: value for key, value in official.items() if "norm1" not in key} | {"backbone.extra": torch.zeros(1)}
    report = check_weights(save_beside_config(tmp_path, odd, tiny_bare))
    assert not report.complete
    assert report.unexpected == ("backbone.extra",)
    assert all("norm1" in key for key in report.missing)
    assert check_weights(tiny_bare).complete


def test_tracker_without_its_neck_is_refused(tmp_path):
    tensors = torch.load(LAYOUTS["released"], weights_only=True)["model"]
    fewer = {key: value for key, value in tensors.items() if "sam2_convs" not in key}
    shutil.copy(GOLDEN / "released" / "tracker_config.json", tmp_path / "tracker_config.json")
    file = save_beside_config(tmp_path, {"model": fewer}, LAYOUTS["released"])
    with pytest.raises(WeightsMismatchError, match=r"missing detector\.backbone\.vision_backbone\.sam2_convs"):
        read_weights(file)


def test_a_file_that_is_cut_off_is_refused(tmp_path, tiny_folder, official, tiny_bare):
    cut = tmp_path / "model.safetensors"
    cut.write_bytes((tiny_folder / "model.safetensors").read_bytes()[:100_000])
    with pytest.raises(WeightsError, match="truncated"):
        read_weights(cut)
    whole = save_beside_config(tmp_path / "pickled", official, tiny_bare)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(WeightsError, match=r"truncated|no checkpoint at all"):
        read_weights(whole)


def test_one_tensor_under_two_names_is_taken_only_if_both_say_the_same(tmp_path, official, tiny_bare):
    key = "transformer.decoder.norm.bias"
    twice = official | {f"module.{key}": official[key].clone()}
    assert check_weights(save_beside_config(tmp_path / "same", twice, tiny_bare)).complete
    twice[f"module.{key}"] += 1
    file = save_beside_config(tmp_path / "other", twice, tiny_bare)
    with pytest.raises(WeightsMismatchError, match=rf"module\.{key} \(the same tensor as {key}, with other values\)"):
        read_weights(file)


def test_pickled_objects_are_named(tmp_path, official):
    torch.save({"model": official, "args": argparse.Namespace(epochs=3)}, tmp_path / "trained.pt")
    with pytest.raises(WeightsError, match=r"other than tensors \(argparse\.Namespace\).*never run"):
        read_weights(tmp_path / "trained.pt")


class Bomb:
    ran = False

    def __reduce__(self):
        return (setattr, (Bomb, "ran", True))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_pickled_code_is_refused_and_never_runs(tmp_path, save):
    save({"model": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(WeightsError, match="pickled code is never run"):
        read_weights(tmp_path / "bomb.pt")
    assert not Bomb.ran


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"layer1.weight": torch.zeros(2)}, r"not SAM3: no key looks like a known layout .*layer1\.weight"),
        ({"backbone.0.body.conv1.weight": torch.zeros(2)}, r"unexpected backbone\.0\.body\.conv1\.weight|are missing"),
        ({"epoch": 3, "lr": 0.1}, "holds no state dict but a mapping with the keys"),
        ([1, 2, 3], "holds no state dict"),
        ({"model": {}}, "holds no state dict"),
    ],
)
def test_foreign_content_is_refused_by_name(tmp_path, content, match):
    torch.save(content, tmp_path / "foreign.pt")
    with pytest.raises(WeightsError, match=match):
        read_weights(tmp_path / "foreign.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_that_are_not_finite_are_refused(tmp_path, official, tiny_bare, value):
    broken = dict(official)
    broken["transformer.decoder.norm.bias"] = torch.full_like(official["transformer.decoder.norm.bias"], value)
    file = save_beside_config(tmp_path, broken, tiny_bare)
    with pytest.raises(WeightsError, match=r"detr_decoder\.output_layer_norm\.bias holds NaN or infinite"):
        check_weights(file)
    weights = read_weights(file)
    with pytest.raises(WeightsError, match=r"detr_decoder\.output_layer_norm\.bias holds NaN or infinite"):
        build_network(weights, precision_for(Dtype.FP32, "cpu"), "cpu")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantised_tensors_are_refused(tmp_path, official, tiny_bare, dtype):
    broken = dict(official)
    broken["transformer.decoder.norm.bias"] = official["transformer.decoder.norm.bias"].to(dtype)
    with pytest.raises(WeightsError, match="only float32, float16 and bfloat16"):
        read_weights(save_beside_config(tmp_path, broken, tiny_bare))


def test_missing_files_and_strange_suffixes_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="no such checkpoint"):
        open_segmenter(tmp_path / "absent.pt")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(WeightsError, match="is not a checkpoint"):
        read_weights(tmp_path / "notes.txt")
    (tmp_path / "noise.pt").write_bytes(b"\x00\x01 this is not a checkpoint")
    with pytest.raises(WeightsError, match=r"noise\.pt"):
        read_weights(tmp_path / "noise.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"found none; name the file"):
        read_weights(tmp_path / "empty")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ("not json", "is not valid JSON"),
        ("[1]", "not a configuration"),
        ('{"model_type": "llama"}', "describes a 'llama'"),
        ('{"model_type": "sam3", "vision_config": 3}', "not a valid SAM3 configuration"),
    ],
)
def test_configurations_of_something_else_are_refused(tmp_path, official, config, match):
    torch.save(official, tmp_path / "checkpoint.pt")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(WeightsError, match=match):
        read_weights(tmp_path / "checkpoint.pt")


def test_a_shard_index_cannot_point_outside_its_folder(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(WeightsError, match="outside the folder"):
        read_weights(tmp_path)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(official, tiny_bare):
    odd = dict(official)
    odd["transformer.decoder.norm.bias"] = torch.zeros(3)
    config = json.loads((tiny_bare.parent / "config.json").read_text())
    with pytest.raises(WeightsMismatchError, match=r"transformer\.decoder\.norm\.bias \(shape \(3,\) where"):
        match_weights(odd, architecture_from(config), "odd.pt")
