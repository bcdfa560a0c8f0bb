"""Baselines without weights: the score of a prompt box alone.

They read the box and at most the grey values in and around it. On a leaderboard they show the share of a score that
the prompt gave away. Their identity is id and version: raise the version when the answer to any prompt changes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medsam3_core.capabilities import Capabilities
from medsam3_core.digests import digest_json
from medsam3_core.errors import UnsupportedPromptError
from medsam3_core.inference.protocol import SliceImage, SliceInstances
from medsam3_core.prompts.prompts import BoxPrompt, SlicePrompt
from medsam3_core.settings.inference import InferenceSettings

BOX_ID, BOX_VERSION = "baseline:box", 1
OTSU_ID, OTSU_VERSION = "baseline:otsu", 1

RIM_SHARE = 0.1
"""Width of the rim of `baseline:otsu` as a share of the shorter side of the box; at least one pixel."""

GreySlice = NDArray[np.uint8]
PixelBox = tuple[slice, slice]
"""Rows and columns of a slice, never empty."""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, what Pillow's mode L uses


@dataclass(frozen=True, slots=True)
class BaselineSegmenter:
    """A rule that draws one mask per box, behind the `Segmenter` protocol; without state.

    Attributes:
        name: Its id, as users write it.
        version: Version of the rule.
        draw: Function of grey slice (y, x) and box that gives a boolean mask of the shape of the box.
    """

    name: str
    version: int
    draw: Callable[[GreySlice, PixelBox], NDArray[np.bool_]]

    @property
    def digest(self) -> str:
        """SHA-256 over id and version, used like the digest of weights."""
        return digest_json({"id": self.name, "version": self.version})

    @property
    def capabilities(self) -> Capabilities:
        """Boxes only."""
        return Capabilities(text=False, box=True)

    @property
    def device(self) -> str:
        """Always the CPU."""
        return "cpu"

    def precision(self, settings: InferenceSettings) -> str:
        """Baselines compute on the 8-bit slice itself."""
        return "uint8"

    def encode(self, images: Sequence[SliceImage], settings: InferenceSettings) -> list[GreySlice]:
        """Grey slices (luma); settings change nothing."""
        return [_grey(image) for image in images]

    def segment(
        self,
        encoding: GreySlice,
        prompts: Sequence[SlicePrompt],
        settings: InferenceSettings,
    ) -> list[SliceInstances]:
        """One instance of score 1, above any threshold, per box, in the order of the boxes.

        Raises:
            UnsupportedPromptError: If a prompt holds anything but positive boxes.
            UsageError: If a box leaves the slice.
        """
        for prompt in prompts:
            self._require_boxes(prompt)
        return [self._answer(encoding, prompt.boxes) for prompt in prompts]

    def _require_boxes(self, prompt: SlicePrompt) -> None:
        given = sorted(prompt.kinds - {"box"})
        if not all(box.positive for box in prompt.boxes):
            given.append("negative boxes")
        if given:
            msg = (
                f"{self.name} takes positive boxes only, the prompt for {prompt.structure!r} holds {', '.join(given)}; "
                "use a box policy, or SAM3 weights"
            )
            raise UnsupportedPromptError(msg)

    def _answer(self, grey: GreySlice, boxes: Sequence[BoxPrompt]) -> SliceInstances:
        masks = np.zeros((len(boxes), *grey.shape), dtype=bool)
        for mask, box in zip(masks, boxes, strict=True):
            pixels = _pixel_box(box, grey.shape)
            mask[pixels] = self.draw(grey, pixels)
        return SliceInstances.of_masks(masks, np.ones(len(boxes), dtype=np.float32))


def fill_box(grey: GreySlice, box: PixelBox) -> NDArray[np.bool_]:
    """The whole box."""
    return np.ones_like(grey[box], dtype=bool)


def otsu_in_box(grey: GreySlice, box: PixelBox) -> NDArray[np.bool_]:
    """The side of Otsu's threshold inside the box whose mean grey differs more from the rim around the box.

    The rim is the band just outside the box, a tenth of its shorter side wide and at least one pixel, clipped to the
    slice; if the box covers the slice, its own outermost pixels. Equal differences give the brighter side, a box of one
    grey value is filled.

    Source: N. Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9 (1979).
    """
    inside = grey[box]
    threshold = otsu_threshold(inside)
    if threshold is None:
        return fill_box(grey, box)
    bright = inside > threshold
    rim = _rim_mean(grey, box)
    bright_differs = abs(float(inside[bright].mean()) - rim) >= abs(float(inside[~bright].mean()) - rim)
    return bright if bright_differs else ~bright


def otsu_threshold(grey: GreySlice) -> int | None:
    """Grey value with the largest variance between the pixels up to it and those above; None if all are equal."""
    counts = np.bincount(grey.reshape(-1), minlength=256).astype(np.float64)
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * np.arange(256))
    split = (below > 0) & (above > 0)
    if not split.any():
        return None
    mean_below = sums[:-1][split] / below[split]
    mean_above = (sums[-1] - sums[:-1][split]) / above[split]
    variance = below[split] * above[split] * (mean_above - mean_below) ** 2
    return int(np.flatnonzero(split)[np.argmax(variance)])


def _rim_mean(grey: GreySlice, box: PixelBox) -> float:
    rows, columns = box
    width = max(1, round(RIM_SHARE * min(rows.stop - rows.start, columns.stop - columns.start)))
    top, left = max(0, rows.start - width), max(0, columns.start - width)
    around = grey[top : rows.stop + width, left : columns.stop + width]
    rim = np.ones(around.shape, dtype=bool)
    rim[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = False
    if not rim.any():
        rim[:] = True
        rim[1:-1, 1:-1] = False
    return float(around[rim].mean())


def _grey(image: SliceImage) -> GreySlice:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        msg = f"a slice is uint8 of shape (y, x, 3), got {image.dtype} {image.shape}"
        raise ValueError(msg)
    grey: GreySlice = np.rint(image.astype(np.float32) @ _LUMA).astype(np.uint8)
    return grey


def _pixel_box(box: BoxPrompt, shape_yx: tuple[int, ...]) -> PixelBox:
    """Pixels whose centre lies in the box; the one under its middle if a thin box holds no centre."""
    box.require_inside(shape_yx)
    height, width = shape_yx
    return _pixels(box.y0, box.y1, height), _pixels(box.x0, box.x1, width)


def _pixels(start: float, stop: float, size: int) -> slice:
    first, last = math.ceil(start - 0.5), math.ceil(stop - 0.5)
    if first < last:
        return slice(first, last)
    middle = min(math.floor((start + stop) / 2), size - 1)
    return slice(middle, middle + 1)


BASELINES: Mapping[str, BaselineSegmenter] = {
    baseline.name: baseline
    for baseline in (
        BaselineSegmenter(BOX_ID, BOX_VERSION, fill_box),
        BaselineSegmenter(OTSU_ID, OTSU_VERSION, otsu_in_box),
    )
}
"""Baselines by id."""
