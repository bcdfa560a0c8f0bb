"""Our answers equal those of the official code, and every correction that this takes is needed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Sam3TrackerModel, Sam3TrackerVideoConfig, Sam3TrackerVideoModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from medsam3_core.sam3.keys.layouts import Part
from medsam3_core.sam3.network.architecture import OFFICIAL_LAYER_NORM_EPS, architecture_from
from medsam3_core.sam3.network.concept import ConceptQuery, TextEncoder, detect
from medsam3_core.sam3.network.encoder import (
    SliceEncoding,
    detector_features,
    encode_slices,
    neck_maps,
    tracker_features,
)
from medsam3_core.sam3.network.interactive import answer_clicks
from medsam3_core.sam3.network.network import Sam3Network, build_network
from medsam3_core.sam3.network.propagation import VolumePrompt, propagate
from medsam3_core.sam3.network.propagation_tracker import PropagationTracker
from medsam3_core.sam3.tensors.precision import precision_for
from medsam3_core.sam3.tensors.preprocess import pixel_values
from medsam3_core.sam3.tensors.tokenizer import VISUAL, TextTokenizer
from medsam3_core.settings.inference import Dtype, InferenceSettings
from storage.weights.checkpoints import open_segmenter, read_weights
from tests.core.sam3.golden import (
    CLICK_CASES,
    DETECTOR_CASES,
    GOLDEN,
    LAYOUTS,
    TRACK_CASES,
    box_rows,
    clicks,
    detector_io,
    meta,
    network_of,
    slice_prompts,
    track_prompt,
    tracker_io,
    video_slice,
)

SCORES, BOXES, MASKS, TRACKS = 5e-6, 1e-6, 5e-5, 5e-3
"""Tolerances that hold in fp32: scores and presence, boxes, mask logits, propagation (whose memories are bf16).

One pixel with a logit of 1e-7 that a CPU rounds to the other side of 0 moves later logits by 2e-3 through the memories.
"""


def encoding_of(network: Sam3Network) -> SliceEncoding:
    return encode_slices(network, [detector_io()["image_uint8"].numpy()])[0]


def queries_of(case: str) -> list[ConceptQuery]:
    rows = [box_rows(case, row) for row in range(len(meta()[case]["texts"]))]
    return [
        ConceptQuery(text, tuple(tuple(box) for box, _ in row), tuple(label for _, label in row))
        for text, row in zip(meta()[case]["texts"], rows, strict=True)
    ]


def answers_of(network: Sam3Network, case: str) -> list:
    with torch.inference_mode():
        features = detector_features(network, encoding_of(network))
        return detect(network, features, queries_of(case), TextEncoder(network, TextTokenizer()))


def official_scores(case: str) -> torch.Tensor:
    io = detector_io()
    return io[f"{case}.pred_logits"][..., 0].sigmoid() * io[f"{case}.presence_logit_dec"].sigmoid()


def worst_mask_difference(network: Sam3Network, case: str) -> float:
    official = detector_io()[f"{case}.pred_masks"]
    return max(
        (ours.mask_logits - official[row]).abs().max().item() for row, ours in enumerate(answers_of(network, case))
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", DETECTOR_CASES)
def test_concept_answers_equal_the_official_ones(layout, case):
    io = detector_io()
    for row, ours in enumerate(answers_of(network_of(layout), case)):
        torch.testing.assert_close(ours.scores, official_scores(case)[row], atol=SCORES, rtol=0)
        torch.testing.assert_close(ours.boxes_xyxy, io[f"{case}.pred_boxes_xyxy"][row], atol=BOXES, rtol=0)
        torch.testing.assert_close(ours.mask_logits, io[f"{case}.pred_masks"][row], atol=MASKS, rtol=0)
        torch.testing.assert_close(ours.semantic_logits, io[f"{case}.semantic_seg"][row, 0], atol=MASKS, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("case", "answer"), [("text", "proc_text"), ("box", "proc_box")])
def test_no_pixel_of_the_processed_masks_differs(layout, case, answer):
    io = detector_io()
    image = io["image_uint8"].numpy()
    settings = InferenceSettings(threshold=meta()["proc"]["threshold"], dtype=Dtype.FP32)
    segmenter = open_segmenter(LAYOUTS[layout])
    ours = segmenter.segment(segmenter.encode([image], settings)[0], slice_prompts(case, image.shape[:2]), settings)[0]
    order = torch.argsort(io[f"{answer}.scores"], descending=True, stable=True)
    assert np.count_nonzero(ours.masks != io[f"{answer}.masks"][order, 0].numpy()) == 0
    np.testing.assert_allclose(ours.scores, io[f"{answer}.scores"][order].numpy(), atol=SCORES)
    np.testing.assert_allclose(ours.boxes_xyxy, io[f"{answer}.boxes"][order].numpy(), atol=1e-3)


def test_pixel_values_are_the_official_ones():
    io = detector_io()
    side = io["pixel_values"].shape[-1]
    torch.testing.assert_close(pixel_values([io["image_uint8"].numpy()], side), io["pixel_values"], atol=2e-7, rtol=0)


def test_trunk_and_neck_are_the_official_ones():
    io, network = detector_io(), network_of("bare")
    with torch.inference_mode():
        encoding = encoding_of(network)
        maps = neck_maps(network, network.detector.vision_encoder.neck, encoding)
    torch.testing.assert_close(encoding.trunk, io["vit_last"][0], atol=MASKS, rtol=0)
    for level in range(3):
        torch.testing.assert_close(maps[level], io[f"fpn{level}"], atol=MASKS, rtol=0)


@pytest.mark.parametrize("case", DETECTOR_CASES)
def test_tokens_are_the_official_ones(case):
    tokenize = TextTokenizer()
    for row, text in enumerate(meta()[case]["texts"]):
        assert tokenize(text).input_ids[0].tolist() == detector_io()[f"{case}.input_ids"][row].tolist()
        padding = detector_io()[f"{case}.language_pad_mask"][row]
        assert (tokenize(text).attention_mask[0] == 0).tolist() == padding.tolist()


@pytest.mark.parametrize("case", CLICK_CASES)
def test_interactive_answers_equal_the_official_ones(case):
    io, network = tracker_io(), network_of("released")
    with torch.inference_mode():
        features = tracker_features(network, encode_slices(network, [video_slice(0)])[0])
        ours = answer_clicks(network.tracker, features, clicks(case))
    torch.testing.assert_close(ours.mask_logits, io[f"{case}.masks"][0], atol=MASKS, rtol=0)
    torch.testing.assert_close(ours.iou, io[f"{case}.iou"][0], atol=SCORES, rtol=0)
    torch.testing.assert_close(ours.object_logit, io[f"{case}.obj"][0, 0], atol=SCORES, rtol=0)


def propagation_differences(network: Sam3Network, case: str) -> list[float]:
    """Largest difference to the official mask logits, slice by slice."""
    io = tracker_io()

    def encode(z: int) -> SliceEncoding:
        return encode_slices(network, [video_slice(z)])[0]

    drawn = propagate(network, encode, len(io["video_uint8"]), [VolumePrompt(track_prompt(case), 0)])
    return [(one.mask_logits - io[f"{case}.f{one.z}.low_res"][0, 0]).abs().max().item() for one in drawn]


@pytest.mark.parametrize("case", TRACK_CASES)
def test_propagation_equals_the_official_one(case):
    differences = propagation_differences(network_of("released"), case)
    assert len(differences) == len(tracker_io()["video_uint8"])
    assert max(differences) <= TRACKS


@pytest.mark.parametrize("dtype", [Dtype.MIXED, Dtype.BF16])
def test_reduced_precision_draws_nearly_the_same_masks(dtype):
    reduced, full = answers_of(network_of("bare", dtype), "text_box")[0], answers_of(network_of("bare"), "text_box")[0]
    masks, reference = reduced.mask_logits.float() > 0, full.mask_logits > 0
    iou = (masks & reference).sum((1, 2)) / (masks | reference).sum((1, 2)).clamp(min=1)
    assert iou.mean() > 0.95
    assert (reduced.scores - full.scores).abs().max() < 0.05


# ---- Traps of the concept head: without the correction the answer is another one ----


def raw_answer(network: Sam3Network, **changes: object) -> torch.Tensor:
    """Mask logits that `transformers` gives for the case `text_box`, with some inputs changed."""
    with torch.inference_mode():
        features = detector_features(network, encoding_of(network))
        text = TextEncoder(network, TextTokenizer())(meta()["text_box"]["texts"][0])
        inputs = {
            "vision_embeds": features,
            "text_embeds": BaseModelOutputWithPooling(pooler_output=text.features),
            "attention_mask": text.attention_mask,
            "input_boxes": detector_io()["text_box.boxes_cxcywh"],
            "input_boxes_labels": detector_io()["text_box.box_labels"],
        }
        given = {name: value for name, value in (inputs | changes).items() if value is not None}
        return network.detector(**given).pred_masks


def test_trap_text_alone_needs_the_geometry_token():
    bare = raw_answer(network_of("bare"), input_boxes=None, input_boxes_labels=None)
    assert (bare - detector_io()["text.pred_masks"]).abs().max() > 100 * MASKS


def test_trap_the_attention_mask_must_be_passed():
    assert (raw_answer(network_of("bare")) - detector_io()["text_box.pred_masks"]).abs().max() < MASKS
    unmasked = raw_answer(network_of("bare"), attention_mask=None)
    assert (unmasked - detector_io()["text_box.pred_masks"]).abs().max() > 100 * MASKS


def test_trap_boxes_are_centre_and_size():
    cx, cy, width, height = detector_io()["text_box.boxes_cxcywh"].unbind(-1)
    corners = torch.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], dim=-1)
    answer = raw_answer(network_of("bare"), input_boxes=corners)
    assert (answer - detector_io()["text_box.pred_masks"]).abs().max() > 100 * MASKS


def test_trap_boxes_alone_ask_for_visual():
    network = network_of("bare")
    (query,) = queries_of("box")
    assert query.text == VISUAL
    with torch.inference_mode():
        features, encoder = detector_features(network, encoding_of(network)), TextEncoder(network, TextTokenizer())
        other = detect(network, features, [replace(query, text="object")], encoder)[0]
    assert (other.mask_logits - detector_io()["box.pred_masks"][0]).abs().max() > 100 * MASKS


def test_trap_images_are_squashed_and_not_letter_boxed():
    """The golden image is 160 x 120: bars on two sides would be another input."""
    io = detector_io()
    image, side = io["image_uint8"].numpy(), io["pixel_values"].shape[-1]
    height, width = image.shape[:2]
    boxed = np.zeros((max(height, width), max(height, width), 3), dtype=np.uint8)
    boxed[:height, :width] = image
    assert (pixel_values([boxed], side) - io["pixel_values"]).abs().max() > 0.1


def test_trap_layer_norm_eps_of_the_trunk():
    weights = read_weights(LAYOUTS["bare"])
    assert weights.architecture.detector.vision_config.backbone_config.layer_norm_eps == OFFICIAL_LAYER_NORM_EPS
    weights.architecture.detector.vision_config.backbone_config.layer_norm_eps = 1e-6
    wrong = build_network(weights, precision_for(Dtype.FP32, "cpu"), "cpu")
    assert worst_mask_difference(wrong, "text") > 2 * worst_mask_difference(network_of("bare"), "text")


def test_configuration_with_another_eps_is_corrected():
    config = read_weights(LAYOUTS["bare"]).architecture.detector.to_dict()
    config["vision_config"]["backbone_config"]["layer_norm_eps"] = 1e-6
    corrected = architecture_from(config).detector.vision_config.backbone_config
    assert corrected.layer_norm_eps == OFFICIAL_LAYER_NORM_EPS


# ---- Traps of the tracker ----


def test_trap_memory_embedding_lands_on_a_level_that_nobody_reads():
    weights = read_weights(LAYOUTS["released"])
    config = weights.architecture.tracker
    video = torch.from_numpy(video_slice(0))[None].permute(0, 3, 1, 2).float() / 127.5 - 1
    trunk = {k: v.float() for k, v in weights.parts[Part.DETECTOR].items() if k.startswith("vision_encoder.backbone.")}
    neck = {f"vision_encoder.neck.{k}": v.float() for k, v in weights.parts[Part.TRACKER_NECK].items()}
    rest = {k: v.float() for k, v in weights.parts[Part.TRACKER].items()}

    def difference(levels: int) -> float:
        config.vision_config.scale_factors = [4.0, 2.0, 1.0, 0.5][:levels]
        model = Sam3TrackerModel(config).eval()
        kept = model.state_dict().keys()
        model.load_state_dict({k: v for k, v in (trunk | neck | rest).items() if k in kept}, strict=True)
        points, labels = tracker_io()["points"][None], tracker_io()["labels"][None].int()
        output = model(pixel_values=video, input_points=points, input_labels=labels, multimask_output=True)
        return (output.pred_masks[0, 0] - tracker_io()["img_points.masks"][0]).abs().max().item()

    assert difference(4) > 100 * MASKS
    assert difference(3) < MASKS


@pytest.mark.parametrize("case", ["vid_box", "vid_points"])
def test_trap_masks_are_squashed_before_they_are_resized_for_the_memory(case, monkeypatch):
    monkeypatch.setattr(PropagationTracker, "_encode_new_memory", Sam3TrackerVideoModel._encode_new_memory)
    first, *later = propagation_differences(network_of("released"), case)
    assert first <= TRACKS < max(later)


def test_trap_a_given_mask_is_remembered_as_certain(monkeypatch):
    monkeypatch.setattr(PropagationTracker, "_use_mask_as_output", Sam3TrackerVideoModel._use_mask_as_output)
    assert max(propagation_differences(network_of("released"), "vid_mask")[1:]) > TRACKS


def test_trap_tracker_configuration_forgets_its_image_size():
    architecture = read_weights(LAYOUTS["released"]).architecture
    config = architecture.tracker.to_dict()
    config.pop("image_size")
    assert Sam3TrackerVideoConfig(**config).image_size != architecture.resolution
    kept = architecture_from(architecture.detector.to_dict(), config).tracker
    assert kept.image_size == kept.prompt_encoder_config.image_size == architecture.resolution


def test_weights_without_tracker_build_no_tracker():
    assert network_of("bare").tracker is None
    assert (GOLDEN / "released" / "tracker_config.json").is_file()
    assert network_of("released").tracker is not None
