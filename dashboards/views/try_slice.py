"""One slice under some weights, at once: what the page Try computes. No Streamlit here."""

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
    """What was drawn and typed.

    Attributes:
        text: What to look for; empty for none.
        box: Half-open pixels x0, y0, x1, y1, or None.
        points: x, y and whether inside.
    """

    text: str = ""
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float, bool], ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing is asked."""
        return not (self.text.strip() or self.box or self.points)

    def for_segmenter(self) -> SlicePrompt:
        """The prompt as segmenters take it."""
        return SlicePrompt(
            STRUCTURE,
            text=self.text.strip() or None,
            boxes=(BoxPrompt(*self.box),) if self.box else (),
            points=(tuple(PointPrompt(x, y, inside) for x, y, inside in self.points),) if self.points else (),
        )


@dataclass(frozen=True, eq=False)
class TrialAnswer:
    """What some weights drew.

    Attributes:
        mask: Shape (y, x).
        instances: How many instances were merged into it.
        score: Highest score; None where nothing was drawn.
        seconds: Encoding and segmentation.
        device: Where it was computed.
    """

    mask: NDArray[np.bool_]
    instances: int
    score: float | None
    seconds: float
    device: str


class TrialSegmenter:
    """Loaded weights; one slice at a time, whoever asks, for segmenters are not thread-safe."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._lock = threading.Lock()

    def answer(self, rgb: NDArray[np.uint8], prompt: TrialPrompt, threshold: float) -> TrialAnswer:
        """Segment one slice, shape (y, x, 3).

        Raises:
            UnsupportedPromptError: If the weights cannot take the prompt.
            UsageError: If the prompt leaves the slice.
        """
        mode = PromptMode.INTERACTIVE if prompt.points else PromptMode.CONCEPT
        settings = InferenceSettings(mode=mode, threshold=threshold)
        asked = prompt.for_segmenter()
        with self._lock:
            started = time.perf_counter()
            encoding = self._segmenter.encode([np.ascontiguousarray(rgb)], settings)[0]
            drawn = self._segmenter.segment(encoding, [asked], settings)[0]
            seconds = time.perf_counter() - started
        merged = merge_instances(drawn, asked, settings)
        score = float(merged.scores.max()) if merged.scores.size else None
        mask: NDArray[np.bool_] = np.asarray(merged.masks.any(axis=0))
        return TrialAnswer(mask, len(merged.scores), score, seconds, self._segmenter.device)


def weights_names(store: StoreLayout) -> list[str]:
    """What can be tried: registered weights, the latest version first, then what comes with the product."""
    registered = sorted(registered_weights(store), key=lambda item: (item.name, -item.version))
    names = [item.name if item.version == 1 else f"{item.name}@{item.version}" for item in registered]
    return [*names, *BASELINES, UNTRAINED, *reversed(shipped_names())]


def load_trial_segmenter(store: StoreLayout, name: str) -> TrialSegmenter:
    """Load weights by name, on the first GPU where there is one.

    Raises:
        UsageError: If there are no such weights.
        WeightsError: If they do not load.
    """
    weights = find_weights(store, name)
    if weights.path is None:
        return TrialSegmenter(load_segmenter(weights, "cpu"))
    import torch

    return TrialSegmenter(load_segmenter(weights, "cuda:0" if torch.cuda.is_available() else "cpu"))
