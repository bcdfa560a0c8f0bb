"""Copies the official answers that the tests read out of the whole golden files.

`python -m tests.golden.copying FOLDER` wrote the files beside this one; `tensors.csv` was written once, by hand and by
comparing streams of `torch.randn` with the tensors, and is only checked here.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

from tests.golden.weights import DIGEST, HERE, digest_of, drawn_tensors

DETECTOR = ("input_ids", "language_pad_mask", "box_labels", "boxes_cxcywh", "pred_boxes_xyxy", "pred_logits")
DETECTOR += ("pred_masks", "presence_logit_dec", "semantic_seg", "pixel_values", "vit_last", "fpn0", "fpn1", "fpn2")
DETECTOR += ("boxes", "scores", "masks")
LOSSES = ("out.pred_logits", "out.pred_boxes", "out.presence_logit_dec", "out.pred_masks")
LOSSES += ("tgt.boxes", "tgt.num_boxes", "tgt.masks", "match.batch", "match.query")


def copy_answers(source: Path) -> None:
    detector, tracker, losses = (
        load_file(source / f"{name}_io.safetensors") for name in ("detector", "tracker", "loss")
    )
    video = tracker.pop("video_uint8").transpose(0, 2, 3, 1)
    Image.fromarray(video.reshape(-1, *video.shape[2:])).save(HERE / "video.png", optimize=True)
    assert (np.asarray(Image.open(source / "image.png")) == detector["image_uint8"]).all()
    kept = {
        "detector": {name: array for name, array in detector.items() if name.rpartition(".")[2] in DETECTOR},
        "tracker": {name: array for name, array in tracker.items() if not name.startswith("embed")},
        "losses": {name: losses[name] for name in LOSSES},
    }
    for name, arrays in kept.items():
        np.savez_compressed(HERE / f"{name}.npz", **arrays)


def copy_weights(source: Path) -> None:
    """Keep what drawing cannot give: the tensors without a seed, and the values that rounding moved."""
    original = torch.load(source / "released" / "sam3.pt", weights_only=True)["model"]
    with np.load(HERE / "weights.npz") as before:
        kept = {name: before[name] for name in before.files if name not in ("names", "places", "values")}
    moved = []
    for name, tensor in drawn_tensors():
        theirs = original[name]
        places = (theirs != tensor).flatten().nonzero().flatten().tolist()
        moved += [(name, place, theirs.view(torch.int16).flatten()[place].item()) for place in places]
    names, places, values = zip(*moved, strict=True)
    kept |= {"names": np.array(names), "places": np.array(places, np.int32), "values": np.array(values, np.int16)}
    np.savez_compressed(HERE / "weights.npz", **kept)
    assert digest_of(original) == DIGEST


if __name__ == "__main__":
    copy_answers(Path(sys.argv[1]))
    copy_weights(Path(sys.argv[1]))
