"""Checkpoints of every layout load whole, adapters merge, and weights are known by their bytes."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Sam3Model, Sam3VideoConfig, Sam3VideoModel

from medsam3_core.errors import WeightsError, WeightsMismatchError
from medsam3_core.sam3.keys.key_rules import to_official
from medsam3_core.sam3.keys.layouts import HUGGING_FACE_PREFIXES, Layout, Part, detect_layout
from medsam3_core.sam3.keys.match import RULES
from medsam3_core.sam3.network.architecture import released_architecture
from medsam3_core.sam3.network.network import build_network, expected_shapes, match_weights
from medsam3_core.sam3.tensors.precision import precision_for
from medsam3_core.settings.inference import Dtype, InferenceSettings
from storage.weights.checkpoints import (
    open_segmenter,
    read_weights,
    weights_sha256,
    write_bare,
    write_hugging_face,
    write_untrained,
)
from tests.core.sam3.golden import GOLDEN, LAYOUTS
from tests.storage.weights.checkpoints.checkpoints import same_tensors, save_beside_config

RELEASED_DETECTOR, RELEASED_VIDEO = 840_395_000, 859_900_000
"""Parameters of the released architecture, rounded."""


@pytest.mark.parametrize(("layout", "interactive"), [("bare", False), ("released", True)])
def test_official_layouts_match_key_by_key(layout, interactive):
    report = read_weights(LAYOUTS[layout]).report
    assert report.layout == layout
    assert report.complete
    assert report.parameters > 0
    assert read_weights(LAYOUTS[layout]).interactive is interactive


def test_detector_tensors_of_both_layouts_are_the_same():
    bare, released = (read_weights(path).parts[Part.DETECTOR] for path in LAYOUTS.values())
    assert all(torch.equal(tensor, released[name]) for name, tensor in bare.items())


def test_what_is_left_out_on_purpose_is_reported_with_its_reason():
    dropped = read_weights(LAYOUTS["released"]).report.dropped
    assert any(key.endswith("freqs_cis") for key in dropped)
    assert all(dropped.values())


def test_tracker_as_interactive_predictor_of_a_bare_file(tmp_path):
    released = torch.load(LAYOUTS["released"], weights_only=True)["model"]
    bare = {key.removeprefix("detector."): value for key, value in released.items() if key.startswith("detector.")}
    tracker = {key.removeprefix("tracker."): value for key, value in released.items() if key.startswith("tracker.")}
    bare |= {f"inst_interactive_predictor.model.{key}": value for key, value in tracker.items()}
    torch.save(bare, tmp_path / "fine_tuned.pth")
    for name in ("config.json", "tracker_config.json"):
        shutil.copy(GOLDEN / "released" / name, tmp_path / name)
    weights = read_weights(tmp_path / "fine_tuned.pth")
    assert weights.report.layout is Layout.BARE
    same_tensors(weights, read_weights(LAYOUTS["released"]))


def test_interactive_neck_without_tracker_is_dropped_and_said(tmp_path):
    released = torch.load(LAYOUTS["released"], weights_only=True)["model"]
    bare = {key.removeprefix("detector."): value for key, value in released.items() if key.startswith("detector.")}
    file = save_beside_config(tmp_path, bare, LAYOUTS["released"])
    weights = read_weights(file)
    assert not weights.interactive
    assert "interactive neck without its tracker" in weights.report.dropped.values()


def test_layout_does_not_depend_on_which_key_comes_first(tmp_path):
    tensors = torch.load(LAYOUTS["released"], weights_only=True)["model"]
    tracker_first = dict(sorted(tensors.items(), reverse=True))
    assert next(iter(tracker_first)).startswith("tracker.")
    assert detect_layout(tracker_first) is Layout.RELEASED
    for name in ("config.json", "tracker_config.json"):
        shutil.copy(GOLDEN / "released" / name, tmp_path / name)
    torch.save({"model": tracker_first}, tmp_path / "sam3.pt")
    same_tensors(read_weights(tmp_path / "sam3.pt"), read_weights(LAYOUTS["released"]))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("nested", [False, True])
def test_wrapper_prefixes_are_taken_off(tmp_path, official, tiny_folder, tiny_bare, prefix, nested):
    wrapped = {prefix + key: value for key, value in official.items()}
    content = {"step": torch.tensor(7), "state_dict": wrapped, "epoch": 3} if nested else wrapped
    file = save_beside_config(tmp_path, content, tiny_bare, "last.ckpt" if nested else "checkpoint.pt")
    same_tensors(read_weights(file), read_weights(tiny_folder))


def test_a_prefix_inside_a_name_is_left_alone(tmp_path, official, tiny_bare):
    odd = dict(official)
    odd["backbone.detector.module.weight"] = torch.zeros(2)
    file = save_beside_config(tmp_path, odd, tiny_bare)
    with pytest.raises(WeightsMismatchError, match=r"unexpected backbone\.detector\.module\.weight"):
        read_weights(file)


def test_round_trip_through_the_bare_layout_changes_nothing(tiny_folder, tiny_bare):
    assert read_weights(tiny_bare).report.layout is Layout.BARE
    same_tensors(read_weights(tiny_bare), read_weights(tiny_folder))


def test_round_trips_of_weights_with_a_tracker_change_nothing(tmp_path):
    released = read_weights(LAYOUTS["released"])
    write_hugging_face(tmp_path / "folder", released)
    write_bare(tmp_path / "bare" / "checkpoint.safetensors", read_weights(tmp_path / "folder"))
    again = read_weights(tmp_path / "bare" / "checkpoint.safetensors")
    assert read_weights(tmp_path / "folder").report.layout is Layout.HUGGING_FACE
    assert again.interactive
    same_tensors(again, released)


def test_transformers_reads_the_folders_that_we_write(tiny_folder):
    model, info = Sam3Model.from_pretrained(tiny_folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ours = read_weights(tiny_folder).parts[Part.DETECTOR]
    assert all(torch.equal(tensor.float(), ours[name].float()) for name, tensor in model.state_dict().items())


def test_names_of_weights_with_tracker_are_those_of_the_video_model():
    with torch.device("meta"):
        names = {name: tensor.shape for name, tensor in Sam3VideoModel(Sam3VideoConfig()).state_dict().items()}
    ours = {
        HUGGING_FACE_PREFIXES[part] + name: shape
        for part, shapes in expected_shapes(released_architecture(tracker=True)).items()
        for name, shape in shapes.items()
    }
    assert ours == names


def test_a_sharded_folder_is_read_whole(tiny_folder, tmp_path):
    tensors = load_file(tiny_folder / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(tiny_folder / "config.json", tmp_path / "config.json")
    same_tensors(read_weights(tmp_path), read_weights(tiny_folder))


def test_without_configuration_the_released_architecture_is_expected(tmp_path, official):
    torch.save(official, tmp_path / "small.pt")
    with pytest.raises(WeightsMismatchError, match="where the architecture has"):
        read_weights(tmp_path / "small.pt")


def test_size_of_the_released_architecture():
    shapes = expected_shapes(released_architecture(tracker=True))
    detector = sum(shape.numel() for shape in shapes[Part.DETECTOR].values())
    assert detector == pytest.approx(RELEASED_DETECTOR, rel=1e-3)
    assert len(shapes[Part.DETECTOR]) == 1468
    assert sum(shape.numel() for part in shapes.values() for shape in part.values()) == pytest.approx(
        RELEASED_VIDEO, rel=1e-3
    )


def test_the_key_table_covers_the_released_file():
    """Its 1465 keys without the 38 that are dropped on purpose, made by reading the table backwards."""
    architecture = released_architecture(tracker=True)
    file = {}
    for part, shapes in expected_shapes(architecture).items():
        tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        prefix = "tracker." if part is Part.TRACKER else "detector."
        file |= {prefix + name: tensor for name, tensor in to_official(tensors, RULES[part]).items()}
    assert len(file) == 1465 - 38
    assert sum(key.startswith("tracker.") for key in file) == 309
    assert match_weights(file, architecture, "sam3.pt").report.complete


def test_computed_buffers_are_those_of_a_plainly_built_model(tiny_folder):
    network = build_network(read_weights(tiny_folder), precision_for(Dtype.BF16, "cpu"), "cpu")
    plain = dict(Sam3Model(network.architecture.detector).named_buffers())
    built = dict(network.detector.named_buffers())
    assert built.keys() == plain.keys()
    assert all(torch.equal(buffer, plain[name]) for name, buffer in built.items())


def test_tensors_are_let_go_after_building_and_read_again_when_needed(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "weights")
    segmenter = open_segmenter(folder)
    fp32 = segmenter._loaded.network_for(InferenceSettings(dtype=Dtype.FP32))
    assert segmenter._loaded._tensors is None
    assert segmenter.weights.report.complete
    half = segmenter._loaded.network_for(InferenceSettings(dtype=Dtype.FP32, resolution=112))
    assert all(torch.equal(tensor, half.detector.state_dict()[k]) for k, tensor in fp32.detector.state_dict().items())
    write_untrained(folder, seed=1)
    with pytest.raises(WeightsError, match="was changed or removed while in use"):
        segmenter._loaded.network_for(InferenceSettings(dtype=Dtype.FP32))


# ---- Adapters ----


def write_adapter(folder, module, rank=2, alpha=8, base=None, width=96, packed=1, **config):
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"base_model.model.{module}.lora_A.weight": torch.randn(rank, width, generator=generator),
        f"base_model.model.{module}.lora_B.weight": torch.randn(packed * width, rank, generator=generator),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    content = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "base_model_name_or_path": base} | config
    (folder / "adapter_config.json").write_text(json.dumps(content))
    return list(tensors.values())


def test_adapter_is_merged_into_its_base(tiny_folder, tmp_path):
    module = "vision_encoder.backbone.layers.0.attention.q_proj"
    down, up = write_adapter(tmp_path / "adapter", module, rank=2, alpha=8, base=str(tiny_folder))
    base, adapted = read_weights(tiny_folder), read_weights(tmp_path / "adapter")
    assert adapted.report.layout is Layout.LORA
    expected = base.parts[Part.DETECTOR][f"{module}.weight"].float() + 8 / 2 * up @ down
    torch.testing.assert_close(adapted.parts[Part.DETECTOR][f"{module}.weight"], expected)
    changed = [
        name
        for name, tensor in base.parts[Part.DETECTOR].items()
        if not torch.equal(tensor.float(), adapted.parts[Part.DETECTOR][name].float())
    ]
    assert changed == [f"{module}.weight"]


def test_adapter_on_an_official_layout(tiny_folder, tiny_bare, tmp_path):
    write_adapter(tmp_path / "adapter", "vision_encoder.backbone.layers.1.attention.v_proj")
    same_tensors(
        read_weights(tmp_path / "adapter", base=tiny_bare), read_weights(tmp_path / "adapter", base=tiny_folder)
    )


@pytest.mark.parametrize("prefix", ["", "detector."])
def test_adapter_on_official_names_takes_the_way_of_the_packed_projection(tiny_folder, tmp_path, prefix):
    """What is added to `qkv` is added, a third each, to query, key and value."""
    module = f"{prefix}backbone.vision_backbone.trunk.blocks.1.attn.qkv"
    down, up = write_adapter(tmp_path / "adapter", module, rank=2, alpha=2, base=str(tiny_folder), packed=3)
    base, adapted = (read_weights(path).parts[Part.DETECTOR] for path in (tiny_folder, tmp_path / "adapter"))
    for part, rows in zip("qkv", (up @ down).chunk(3), strict=True):
        name = f"vision_encoder.backbone.layers.1.attention.{part}_proj.weight"
        torch.testing.assert_close(adapted[name], base[name].float() + rows)


def test_adapter_on_a_packed_attention_of_torch(tiny_folder, tmp_path):
    module = "transformer.encoder.layers.0.self_attn"
    down, up = write_adapter(tmp_path / "adapter", module, rank=8, width=64, packed=3, base=str(tiny_folder))
    base, adapted = (read_weights(path).parts[Part.DETECTOR] for path in (tiny_folder, tmp_path / "adapter"))
    name = "detr_encoder.layers.0.self_attn.v_proj.weight"
    torch.testing.assert_close(adapted[name], base[name].float() + (up @ down).chunk(3)[2])


def test_adapter_is_found_by_its_file_and_its_base_beside_it(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "base")
    write_adapter(tmp_path / "adapter", "vision_encoder.backbone.layers.0.attention.q_proj", base="../base")
    same_tensors(read_weights(tmp_path / "adapter" / "adapter_model.safetensors"), read_weights(tmp_path / "adapter"))


def test_adapter_whose_base_is_not_here_says_so(tmp_path):
    write_adapter(tmp_path / "adapter", "vision_encoder.backbone.layers.0.attention.q_proj", base="lost")
    with pytest.raises(WeightsError, match="adapter on lost, which was not found; name its weights with --base"):
        read_weights(tmp_path / "adapter")


def test_adapter_without_base_or_for_another_base_is_refused(tiny_folder, tmp_path):
    write_adapter(tmp_path / "orphan", "vision_encoder.backbone.layers.0.attention.q_proj")
    with pytest.raises(WeightsError, match="name its weights with --base"):
        read_weights(tmp_path / "orphan")
    write_adapter(tmp_path / "foreign", "model.layers.0.self_attn.q_proj", base=str(tiny_folder))
    with pytest.raises(WeightsMismatchError, match=r"model\.layers\.0\.self_attn\.q_proj"):
        read_weights(tmp_path / "foreign")


def test_adapters_of_other_methods_are_refused(tiny_folder, tmp_path):
    write_adapter(
        tmp_path / "dora", "vision_encoder.backbone.layers.0.attention.q_proj", base=str(tiny_folder), use_dora=True
    )
    with pytest.raises(WeightsError, match="DoRA"):
        read_weights(tmp_path / "dora")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"init_lora_weights": "pissa"}, "starts as 'pissa', which belongs to a changed base"),
        ({"init_lora_weights": "olora"}, "starts as 'olora'"),
        ({"use_qalora": True}, "is a QALoRA"),
    ],
)
def test_adapters_of_a_changed_base_are_refused(tiny_folder, tmp_path, said, message):
    module = "vision_encoder.backbone.layers.0.attention.q_proj"
    write_adapter(tmp_path / "odd", module, base=str(tiny_folder), **said)
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / "odd")


# ---- Identity ----


def test_identity_of_a_folder_counts_names_and_bytes(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "copy")
    assert weights_sha256(tiny_folder) == weights_sha256(tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text("{}")
    assert weights_sha256(tiny_folder) != weights_sha256(tmp_path / "copy")


def test_identity_of_an_adapter_counts_its_base(tiny_folder, tiny_bare, tmp_path):
    write_adapter(tmp_path / "adapter", "vision_encoder.backbone.layers.0.attention.q_proj")
    assert weights_sha256(tmp_path / "adapter", tiny_folder) != weights_sha256(tmp_path / "adapter", tiny_bare)


def test_untrained_weights_are_the_same_bytes_for_the_same_seed(tiny_folder, tmp_path):
    write_untrained(tmp_path / "same")
    write_untrained(tmp_path / "other", seed=1)
    assert weights_sha256(tmp_path / "same") == weights_sha256(tiny_folder) != weights_sha256(tmp_path / "other")
