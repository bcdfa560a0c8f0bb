"""A segmenter whose answers are known: it draws the structures of a phantom by the names that it is taught."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.agent.session import AgentSession
from medsam3_core.capabilities import Capabilities
from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.inference.protocol import SliceInstances
from medsam3_core.prompts.prompts import SlicePrompt
from medsam3_core.settings.inference import InferenceSettings

SHAPE = (4, 40, 60)


class Parrot:
    """Knows masks by text; every box and point draws the mask that it touches.

    Slices are told apart by the grey value of their first pixel, so that encodings are what the agent must reuse.
    """

    capabilities = Capabilities(text=True, box=True, interactive=True)
    device = "cpu"

    def __init__(self, masks: Mapping[str, NDArray[np.bool_]]) -> None:
        self.masks = dict(masks)
        self.encoded: list[int] = []
        self.asked: list[str] = []

    def precision(self, settings: InferenceSettings) -> str:
        return "fp32"

    def encode(self, images: Sequence[NDArray[np.uint8]], settings: InferenceSettings) -> list[Any]:
        zs = [int(image[0, 0, 0]) for image in images]
        self.encoded += zs
        return zs

    def segment(
        self, encoding: Any, prompts: Sequence[SlicePrompt], settings: InferenceSettings
    ) -> list[SliceInstances]:
        return [self._one(encoding, prompt) for prompt in prompts]

    def _one(self, z: int, prompt: SlicePrompt) -> SliceInstances:
        self.asked.append(prompt.text or "")
        shape = SHAPE[1:]
        drawn: list[NDArray[np.bool_]] = []
        if prompt.text is not None:
            drawn = [self.masks[prompt.text][z]] if prompt.text in self.masks else []
        else:
            x, y = (
                (prompt.boxes[0].x0, prompt.boxes[0].y0)
                if prompt.boxes
                else (prompt.points[0][0].x, prompt.points[0][0].y)
            )
            drawn = [mask[z] for mask in self.masks.values() if mask[z, int(y), int(x)]][:1]
        drawn = [part for mask in drawn for part in _parts(mask)]
        if not drawn:
            return SliceInstances.nothing(shape)
        scores = np.linspace(0.9, 0.8, len(drawn)).astype(np.float32)
        return SliceInstances(np.stack(drawn), scores, _boxes(drawn))


def _boxes(drawn: list[NDArray[np.bool_]]) -> NDArray[np.float32]:
    corners = [(np.nonzero(mask)[1], np.nonzero(mask)[0]) for mask in drawn]
    return np.array([(x.min(), y.min(), x.max() + 1, y.max() + 1) for x, y in corners], dtype=np.float32)


def _parts(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    from scipy import ndimage

    numbered, count = ndimage.label(mask)
    return [numbered == number for number in range(1, count + 1)]


def block(x0: int, x1: int, y0: int = 10, y1: int = 30) -> NDArray[np.bool_]:
    """A block through all slices."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, y0:y1, x0:x1] = True
    return mask


def slice_of(z: int, window: str = "recipe") -> NDArray[np.uint8]:
    """A slice that says which it is."""
    return np.full((*SHAPE[1:], 3), z, dtype=np.uint8)


def geometry() -> VolumeGeometry:
    """Columns run from the patient's right to the left, voxels of 5 x 1 x 1 mm."""
    affine = np.diag([-1.0, -1.0, 5.0, 1.0])
    affine[:3, 3] = [SHAPE[2] / 2, SHAPE[1] / 2, 0]
    return VolumeGeometry.from_nifti(SHAPE, affine)


def session(segmenter: Parrot, *settings: str) -> AgentSession:
    """A session on the parrot's volume; intensities are 100 z."""
    parsed = InferenceSettings.parse(settings)
    return AgentSession(segmenter, slice_of, geometry(), parsed, lambda z: np.full(SHAPE[1:], 100 * z))
