"""Weights from Python: load them once, then ask any number of images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.errors import UsageError
from medsam3_core.inference.protocol import Segmenter
from medsam3_core.prompts.checks import require_inside
from medsam3_core.prompts.prompts import BoxPrompt, PointPrompt, SlicePrompt
from medsam3_core.settings.inference import InferenceSettings
from storage.sources.formats.single import read_input_image
from storage.store.layout import DEFAULT_STORE, STORE_VARIABLE, StoreLayout
from storage.store.locations import location
from storage.weights.registry import default_device, find_weights, is_location, load_segmenter, load_unregistered


@dataclass(frozen=True, eq=False)
class Prediction:
    """Instances found on one slice, by falling score.

    Attributes:
        masks: Boolean, shape (n, y, x), at the size of the image.
        scores: float32, shape (n,), in [0, 1].
        boxes_xyxy: float32, shape (n, 4), half-open pixels.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Union of all instances, shape (y, x)."""
        return np.asarray(self.masks.any(axis=0))


@dataclass(frozen=True, eq=False)
class Model:
    """Loaded weights. Not thread-safe: use one per thread."""

    segmenter: Segmenter

    def predict(
        self,
        image: "str | Path | NDArray[Any]",
        *,
        text: str | None = None,
        boxes: Sequence[tuple[float, float, float, float]] = (),
        points: Sequence[tuple[float, float, bool]] = (),
        slice_index: int | None = None,
        settings: Sequence[str] = (),
    ) -> Prediction:
        """Segment one picture, or one slice of a volume.

        Args:
            image: File (PNG, JPEG, TIFF or a volume), or uint8 pixels of shape (y, x) or (y, x, 3).
            text: Name of the structure.
            boxes: `(x0, y0, x1, y1)` in pixels, half-open: examples, or with `mode=interactive` one object each.
            points: `(x, y, inside)` in pixels; all points belong to one object.
            slice_index: Slice of a volume, from 0.
            settings: Inference settings as `key=value`, such as `threshold=0.4`.

        Raises:
            UsageError: If there is no prompt, or one leaves the image.
            UnsupportedPromptError: If these weights do not accept a prompt of this kind.
            CaseDataError: If the file cannot be read; names file, value and remedy.
        """
        chosen = InferenceSettings.parse(settings)
        rgb = _pixels(image) if isinstance(image, np.ndarray) else _slice_of(Path(image), slice_index, chosen)
        clicks = tuple(PointPrompt(x, y, positive=inside) for x, y, inside in points)
        prompt = SlicePrompt(
            text or "object", text, tuple(BoxPrompt(*box) for box in boxes), (clicks,) if clicks else ()
        )
        require_inside(prompt, (rgb.shape[0], rgb.shape[1]))
        (encoding,) = self.segmenter.encode([rgb], chosen)
        (found,) = self.segmenter.segment(encoding, [prompt], chosen)
        return Prediction(found.masks, found.scores, found.boxes_xyxy)


def load_weights(name: str, *, store: str | Path | None = None, device: str | None = None) -> Model:
    """Load weights.

    Args:
        name: Built-in weights such as `tiny-medical`, `NAME` or `NAME@N` of a store, a checkpoint file or folder, or
            `hf://` location.
        store: Store with registered weights; None for `$MEDSAM3_STORE`, else `medsam3-store`.
        device: `cpu` or `cuda:N`; None for the first card where there is one.

    Raises:
        WeightsError: If there are none of this name (lists what exists), or a tensor does not match.
    """
    layout = StoreLayout(location(store if store is not None else os.environ.get(STORE_VARIABLE, DEFAULT_STORE)))
    target = device or default_device()
    if is_location(layout, name):
        return Model(load_unregistered(layout, name, target))
    return Model(load_segmenter(find_weights(layout, name), target))


def _pixels(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        msg = (
            f"pixels have shape {image.shape} and type {image.dtype}; give uint8 of shape (y, x) or (y, x, 3), "
            "windowed as the structure needs, or the path of a file"
        )
        raise UsageError(msg)
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image


def _slice_of(path: Path, slice_index: int | None, settings: InferenceSettings) -> NDArray[np.uint8]:
    image = read_input_image(path)
    return image.rgb(image.require_slice(slice_index), settings.window)
