"""What we use of the insides of torch and `transformers` is as it was when we wrote for it."""

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
from transformers import Sam3TrackerVideoModel, Trainer, TrainingArguments

from medsam3_core.sam3.tensors import transformers_internals as insides
from medsam3_core.sam3.tensors.torch_internals import has_amx, has_avx512_bf16


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Sam3VisionEncoderOutput", {"fpn_hidden_states", "fpn_position_encoding"}),
        ("Sam3MaskDecoderOutput", {"pred_masks", "semantic_seg"}),
        (
            "Sam3TrackerVideoImageSegmentationOutput",
            {"iou_scores", "pred_masks", "high_res_masks", "object_pointer", "object_score_logits"},
        ),
    ],
)
def test_outputs_of_parts_have_the_fields_that_we_fill(name: str, fields: set[str]) -> None:
    assert fields <= {field.name for field in dataclasses.fields(getattr(insides, name))}


def test_layers_that_we_replace_take_what_ours_take() -> None:
    assert parameters(insides.Sam3ViTRoPEAttention.forward)[:3] == ["self", "hidden_states", "position_embeddings"]
    assert parameters(insides.Sam3SinePositionEmbedding.__init__)[1:3] == ["num_position_features", "temperature"]
    assert parameters(insides.Sam3VisionNeck.forward) == ["self", "hidden_states"]
    assert torch.allclose(insides.inverse_sigmoid(torch.tensor(0.25)), torch.logit(torch.tensor(0.25)))


def test_the_tracker_calls_the_methods_that_we_replace() -> None:
    assert parameters(Sam3TrackerVideoModel._use_mask_as_output)[1:] == [
        "backbone_features", "high_res_features", "mask_inputs",
    ]  # fmt: skip
    assert parameters(Sam3TrackerVideoModel._encode_new_memory)[1:] == [
        "current_vision_feats", "pred_masks_high_res", "object_score_logits", "is_mask_from_pts",
    ]  # fmt: skip


def test_a_tensor_that_is_marked_is_not_initialised_again() -> None:
    layer = torch.nn.Linear(2, 2)
    for tensor in layer.parameters():
        insides.mark_as_loaded(tensor)
    before = layer.weight.detach().clone()
    from transformers import initialization

    initialization.normal_(layer.weight)
    assert torch.equal(layer.weight, before)


def test_the_trainer_asks_for_the_order_and_keeps_to_one_device(tmp_path: Path) -> None:
    assert parameters(Trainer._get_train_sampler) == ["self", "train_dataset"]
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    arguments._n_gpu = 4
    insides.use_one_device(arguments)
    assert arguments.n_gpu == 1


def test_torch_says_what_the_cpu_can() -> None:
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        assert known["architecture"] != "x86_64" or {"amx_bf16", "avx512_bf16"} <= known.keys()
    else:
        assert {"_is_amx_tile_supported", "_is_avx512_bf16_supported"} <= set(dir(torch.cpu))
    assert {type(has_amx()), type(has_avx512_bf16())} == {bool}
