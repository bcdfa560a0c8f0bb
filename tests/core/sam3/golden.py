"""Answers of the official SAM3 code on small random weights (`tests/golden`), and our network on the same weights."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from medsam3_core.prompts.prompts import BoxPrompt, MaskPrompt, PointPrompt, SlicePrompt
from medsam3_core.sam3.network.interactive import Clicks
from medsam3_core.sam3.network.network import Sam3Network, build_network
from medsam3_core.sam3.tensors.precision import precision_for
from medsam3_core.settings.inference import Dtype
from storage.weights.checkpoints import read_weights
from tests import GOLDEN
from tests.golden.weights import checkpoints


class _Checkpoints(Mapping[str, Path]):
    """Checkpoint of each layout, drawn from its seeds when a test first asks for one."""

    def __getitem__(self, layout: str) -> Path:
        return checkpoints()[layout]

    def __iter__(self) -> Iterator[str]:
        return iter(("bare", "released"))

    def __len__(self) -> int:
        return 2


LAYOUTS = _Checkpoints()
DETECTOR_CASES = ("text", "box", "text_box", "text_posneg", "texts3", "ragged")
CLICK_CASES = ("img_points", "img_point_single", "img_box", "img_box_points", "img_points_mask")
TRACK_CASES = ("vid_mask", "vid_box", "vid_points")
ROUNDING = 1e-5
"""Mask logits so near to 0 fall on either side, as a CPU adds them up; they go to 10."""

torch.set_num_threads(
    1
)  # these networks are tiny: on a busy machine two threads spend their time waiting for each other


@cache
def network_of(layout: str, dtype: Dtype = Dtype.FP32) -> Sam3Network:
    return build_network(read_weights(LAYOUTS[layout]), precision_for(dtype, "cpu"), "cpu")


def arrays_of(name: str) -> dict[str, torch.Tensor]:
    """Every array of a golden file by its name."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def pixels_of(name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(GOLDEN / name)))


@cache
def detector_io() -> dict[str, torch.Tensor]:
    """Inputs and answers of the detector, and `image_uint8`, shape (y, x, 3)."""
    return arrays_of("detector") | {"image_uint8": pixels_of("image.png")}


@cache
def tracker_io() -> dict[str, torch.Tensor]:
    """Inputs and answers of the tracker, and `video_uint8`, shape (z, 3, y, x), square slices."""
    rows = pixels_of("video.png")
    slices = rows.view(-1, rows.shape[1], rows.shape[1], 3)
    return arrays_of("tracker") | {"video_uint8": slices.permute(0, 3, 1, 2).contiguous()}


@cache
def meta() -> dict[str, Any]:
    return json.loads((GOLDEN / "meta.json").read_text())


def box_rows(case: str, row: int) -> list[tuple[list[float], int]]:
    """Boxes (cxcywh in fractions) and labels of one prompt of a case, without padding."""
    io = detector_io()
    if f"{case}.box_labels" not in io:
        return []
    labels = io[f"{case}.box_labels"][row].tolist()
    boxes = io[f"{case}.boxes_cxcywh"][row].tolist()
    return [(box, label) for box, label in zip(boxes, labels, strict=True) if label != -10]


def slice_prompts(case: str, shape_yx: tuple[int, int]) -> list[SlicePrompt]:
    """The prompts of a detector case in pixels of a slice."""
    height, width = shape_yx
    prompts = []
    for row, text in enumerate(meta()[case]["texts"]):
        boxes = tuple(
            BoxPrompt(
                max(0.0, (cx - w / 2) * width),
                max(0.0, (cy - h / 2) * height),
                min(width, (cx + w / 2) * width),
                min(height, (cy + h / 2) * height),
                positive=label == 1,
            )
            for (cx, cy, w, h), label in box_rows(case, row)
        )
        prompts.append(SlicePrompt("structure", text=None if text == "visual" else text, boxes=boxes))
    return prompts


def clicks(case: str) -> Clicks:
    """An interactive case as the head reads it."""
    io = tracker_io()
    points, labels = io["points"][0], io["labels"][0].int()
    corners, corner_labels = io["box_xyxy"].reshape(2, 2), torch.tensor([2, 3], dtype=torch.int32)
    multimask = io[f"{case}.masks"].shape[1] > 1
    return {
        "img_points": Clicks(points, labels, None, multimask),
        "img_point_single": Clicks(points[:1], labels[:1], None, multimask),
        "img_box": Clicks(corners, corner_labels, None, multimask),
        "img_box_points": Clicks(torch.cat([corners, points]), torch.cat([corner_labels, labels]), None, multimask),
        "img_points_mask": Clicks(points, labels, io["mask_input"][0, 0], multimask),
    }[case]


def track_prompt(case: str) -> SlicePrompt:
    """The prompt of a propagation case, on slice 0."""
    io = tracker_io()
    points = zip(io["points"][0].tolist(), io["labels"][0].tolist(), strict=True)
    return {
        "vid_mask": SlicePrompt("structure", masks=(MaskPrompt(io["mask0"].numpy() > 0.5),)),
        "vid_box": SlicePrompt("structure", boxes=(BoxPrompt(*io["box_xyxy"][0].tolist()),)),
        "vid_points": SlicePrompt(
            "structure", points=(tuple(PointPrompt(x, y, positive=label == 1) for (x, y), label in points),)
        ),
    }[case]


def video_slice(z: int) -> Any:
    """Slice z of the golden video, uint8 (y, x, 3)."""
    return tracker_io()["video_uint8"][z].permute(1, 2, 0).contiguous().numpy()
