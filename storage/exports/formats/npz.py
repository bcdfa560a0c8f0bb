"""All instances of one slice as NumPy arrays, for programs."""

from pathlib import Path

import numpy as np

from storage.exports.instance_overlays import DrawnSlice
from storage.exports.registry import ExportCommand, ExportFormat


def _write_slice(drawn: DrawnSlice, scratch: Path) -> None:
    """`masks` (n, y, x) bool, `scores` (n) float32, `boxes` (n, 4) float32 xyxy in pixels.

    `prompt` (n) int32 is the index of an instance's prompt in the names `prompts`.
    """
    found = drawn.instances
    numbers = [index for index, answer in enumerate(drawn.answers) for _ in answer.instances.scores]
    with scratch.open("wb") as file:
        np.savez_compressed(
            file,
            masks=found.masks,
            scores=found.scores,
            boxes=found.boxes_xyxy,
            prompt=np.array(numbers, dtype=np.int32),
            prompts=np.array([answer.prompt.structure for answer in drawn.answers]),
        )


FORMAT = ExportFormat(
    name="npz",
    suffix=".npz",
    help="masks, scores and boxes of one slice",
    commands=frozenset({ExportCommand.PREDICT}),
    instances=True,
    write_slice=_write_slice,
)
