"""Segment one slice with some weights, for the page Try; without Streamlit."""

import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medsam3_core.inference.baselines import BASELINES
from medsam3_core.inference.merging import merge_instances
from medsam3_core.inference.protocol import Segmenter
from medsam3_core.prompts.prompts import BoxPrompt, PointPrompt, SlicePrompt
from medsam3_core.settings.inference import InferenceSettings, PromptMode
from storage.store.layout import StoreLayout
from storage.weights.registry import UNTRAINED, find_weights, load_segmenter, registered_weights
from storage.weights.shipped import shipped_names

STRUCTURE = "structure"


@dataclass(frozen=True, slots=True)
class TrialPrompt:
    """Prompt drawn and typed on the page.

    Attributes:
        text: Text prompt; empty for none.
        box: Half-open pixels x0, y0, x1, y1, or None.
        points: x, y and True if inside.
    """

    text: str = ""
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float, bool], ...] = ()

    @property
    def empty(self) -> bool:
        """True if there is no text, box or point."""
        return not (self.text.strip() or self.box or self.points)

    def for_segmenter(self) -> SlicePrompt:
        """The same prompt for a segmenter."""
        return SlicePrompt(
            STRUCTURE,
            text=self.text.strip() or None,
            boxes=(BoxPrompt(*self.box),) if self.box else (),
            points=(tuple(PointPrompt(x, y, inside) for x, y, inside in self.points),) if self.points else (),
        )


@dataclass(frozen=True, eq=False)
class TrialAnswer:
    """Mask predicted by some weights.

    Attributes:
        mask: Shape (y, x).
        instances: Number of instances merged into the mask.
        score: Highest score; None without instances.
        seconds: Time of encoding and segmentation.
        device: Device of the segmenter.
    """

    mask: NDArray[np.bool_]
    instances: int
    score: float | None
    seconds: float
    device: str


class TrialSegmenter:
    """Loaded weights; segments one slice at a time, because segmenters are not thread-safe."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._lock = threading.Lock()

    def answer(self, rgb: NDArray[np.uint8], prompt: TrialPrompt, threshold: float) -> TrialAnswer:
        """Segment one slice, shape (y, x, 3).

        Raises:
            UnsupportedPromptError: If the weights do not support the prompt.
            UsageError: If the prompt lies outside the slice.
        """
        mode = PromptMode.INTERACTIVE if prompt.points else PromptMode.CONCEPT
        settings = InferenceSettings(mode=mode, threshold=threshold)
        slice_prompt = prompt.for_segmenter()
        with self._lock:
            started = time.perf_counter()
            encoding = self._segmenter.encode([np.ascontiguousarray(rgb)], settings)[0]
            instances = self._segmenter.segment(encoding, [slice_prompt], settings)[0]
            seconds = time.perf_counter() - started
        merged = merge_instances(instances, slice_prompt, settings)
        score = float(merged.scores.max()) if merged.scores.size else None
        mask: NDArray[np.bool_] = np.asarray(merged.masks.any(axis=0))
        return TrialAnswer(mask, len(merged.scores), score, seconds, self._segmenter.device)


def weights_names(store: StoreLayout) -> list[str]:
    """Names of registered weights, latest version first, then baselines, untrained and shipped weights."""
    registered = sorted(registered_weights(store), key=lambda item: (item.name, -item.version))
    names = [item.name if item.version == 1 else f"{item.name}@{item.version}" for item in registered]
    return [*names, *BASELINES, UNTRAINED, *reversed(shipped_names())]


def load_trial_segmenter(store: StoreLayout, name: str) -> TrialSegmenter:
    """Load weights by name, on the first GPU if there is one.

    Raises:
        UsageError: If there are no such weights.
        WeightsError: If they cannot be loaded.
    """
    weights = find_weights(store, name)
    if weights.path is None:
        return TrialSegmenter(load_segmenter(weights, "cpu"))
    import torch

    return TrialSegmenter(load_segmenter(weights, "cuda:0" if torch.cuda.is_available() else "cpu"))
