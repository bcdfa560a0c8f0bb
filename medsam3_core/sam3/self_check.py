"""Self-check of the installed `transformers` against the official code, in two seconds.

The golden files are the full proof. A user's machine lacks them: there, small seeded weights must give the numbers
below, taken from a build that reproduced the golden files.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from medsam3_core.prompts.prompts import BoxPrompt, PointPrompt, SlicePrompt, VolumePrompt
from medsam3_core.sam3.network.concept import TextEncoder
from medsam3_core.sam3.network.encoder import encode_slices
from medsam3_core.sam3.network.heads import SliceHeads
from medsam3_core.sam3.network.network import build_network
from medsam3_core.sam3.network.propagation import propagate
from medsam3_core.sam3.network.tiny import untrained_weights
from medsam3_core.sam3.tensors.postprocess import Detections
from medsam3_core.sam3.tensors.precision import precision_for
from medsam3_core.sam3.tensors.tokenizer import TextTokenizer
from medsam3_core.settings.inference import Dtype

TOLERANCE = 1e-3
"""Machines differ by 1e-5 at most; known faults cost 4e-3 and more."""

EXPECTED: dict[str, tuple[float, ...]] = {
    "text": (0.74219, 0.61290, -1.81612, 2.54398),
    "box": (0.58478, 0.42016, -0.53233, 2.86665),
    "text and boxes": (0.74003, 0.54899, -0.75752, 2.96519),
    "point": (0.42061, 0.42061, 0.45455, 0.64244),
    "clicked box": (0.42645, 0.42645, 0.40681, 0.77192),
    "propagation": (0.77192, 0.64387, 0.65042),
}

_SHAPE_YX = (96, 128)
_BOX, _OTHER = BoxPrompt(20, 30, 70, 80), BoxPrompt(90, 10, 120, 40, positive=False)
_CONCEPTS = {
    "text": SlicePrompt("check", text="liver tumor"),
    "box": SlicePrompt("check", boxes=(_BOX,)),
    "text and boxes": SlicePrompt("check", text="polyp", boxes=(_BOX, _OTHER)),
}
_CLICKS = {
    "point": SlicePrompt("check", points=((PointPrompt(40, 50),),)),
    "clicked box": SlicePrompt("check", boxes=(_BOX,)),
}


def drifted() -> list[str]:
    """Differences from the expected answers, as sentences; empty if there are none."""
    found = measured()
    return [
        f"{name}: {_shown(found[name])} instead of {_shown(expected)}"
        for name, expected in EXPECTED.items()
        if not np.allclose(found[name], expected, rtol=TOLERANCE, atol=TOLERANCE)
    ]


@torch.no_grad()
def measured() -> dict[str, tuple[float, ...]]:
    """Numbers to compare, computed with the installed versions."""
    network = build_network(untrained_weights(tracker=True), precision_for(Dtype.FP32, "cpu"), "cpu", 112)
    heads = SliceHeads(network, TextEncoder(network, TextTokenizer()), encode_slices(network, [_slice(0)])[0])
    numbers = {name: _numbers(heads.detect([prompt])[0]) for name, prompt in _CONCEPTS.items()}
    numbers |= {name: _numbers(heads.click(prompt)) for name, prompt in _CLICKS.items()}
    volume = propagate(
        network, lambda z: encode_slices(network, [_slice(z)])[0], 3, [VolumePrompt(_CLICKS["clicked box"], 0)]
    )
    numbers["propagation"] = tuple(float(drawn.mask_logits.std()) for drawn in volume)
    return numbers


def _numbers(found: Detections) -> tuple[float, ...]:
    scores, logits = found.scores.float(), found.mask_logits.float()
    return (float(scores.max()), float(scores.mean()), float(logits.mean()), float(logits.std()))


def _slice(z: int) -> NDArray[np.uint8]:
    """A deterministic slice: bands whose phase moves with z."""
    y, x = np.mgrid[: _SHAPE_YX[0], : _SHAPE_YX[1]]
    planes = [(7 * x + 3 * y + 40 * z) % 256, (5 * y + 11 * z) % 256, (x * y // 16) % 256]
    return np.stack(planes, axis=-1).astype(np.uint8)


def _shown(numbers: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{number:.4f}" for number in numbers) + ")"
