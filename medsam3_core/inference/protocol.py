"""The one face of everything that segments: encode a slice once, then answer any number of prompts on it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from medsam3_core.capabilities import Capabilities
from medsam3_core.prompts.prompts import BoxPrompt, SlicePrompt, VolumePrompt
from medsam3_core.settings.inference import InferenceSettings

SliceImage = NDArray[np.uint8]
"""Shape (y, x, 3), RGB or three equal channels, after the intensity policy."""


@dataclass(frozen=True, eq=False)
class SliceInstances:
    """What a segmenter drew for one prompt on one slice, by falling score.

    Attributes:
        masks: Boolean, shape (n, y, x), at the size of the slice.
        scores: float32, shape (n,), in [0, 1].
        boxes_xyxy: float32, shape (n, 4), half-open pixels of the slice.
        semantic: Mask of the semantic head, shape (y, x), where the weights have one and the settings ask for it; empty
            where `presence` is not above the threshold (with tiles: of each tile).
        fallbacks: What was done to fit (for example `prompts-halved`), empty when nothing was.
        presence: Probability that what was asked is on the slice at all, of tiles the highest; 0 where the weights do
            not say. Scores of instances contain it already.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]
    semantic: NDArray[np.bool_] | None = None
    fallbacks: tuple[str, ...] = ()
    presence: float = 0.0

    def at(self, positions: NDArray[np.intp]) -> "SliceInstances":
        """The instances at these positions, with all else that is known."""
        return replace(
            self, masks=self.masks[positions], scores=self.scores[positions], boxes_xyxy=self.boxes_xyxy[positions]
        )

    @classmethod
    def of_masks(
        cls, masks: NDArray[np.bool_], scores: NDArray[np.float32], fallbacks: tuple[str, ...] = ()
    ) -> "SliceInstances":
        """Instances with the tight boxes of their masks, (n, y, x), each of at least one pixel."""
        boxes = [(box.x0, box.y0, box.x1, box.y1) for box in map(BoxPrompt.around, masks)]
        return cls(masks, scores, np.array(boxes, dtype=np.float32).reshape(-1, 4), None, fallbacks)

    @classmethod
    def nothing(cls, shape_yx: tuple[int, int]) -> "SliceInstances":
        """The answer "not here": no instance on a slice of this shape."""
        return cls(
            np.zeros((0, *shape_yx), dtype=bool), np.zeros(0, dtype=np.float32), np.zeros((0, 4), dtype=np.float32)
        )


class Segmenter(Protocol):
    """Loaded weights behind two methods. Not thread-safe: one segmenter per worker thread."""

    @property
    def capabilities(self) -> Capabilities:
        """Which prompts it takes."""
        ...

    @property
    def device(self) -> str:
        """Where it computes: `cpu` or `cuda:N`."""
        ...

    def precision(self, settings: InferenceSettings) -> str:
        """Precision that these settings mean on this device: `fp32`, `bf16`, `mixed`, or `uint8` for baselines."""
        ...

    def encode(self, images: Sequence[Any], settings: InferenceSettings) -> list[Any]:
        """Encode slices, or what `prepare` made of them.

        Each encoding is opaque, belongs to this segmenter and holds all that `segment` needs.
        """
        ...

    def segment(
        self, encoding: Any, prompts: Sequence[SlicePrompt], settings: InferenceSettings
    ) -> list[SliceInstances]:
        """Answer each prompt on one encoded slice; as many answers as prompts, in order.

        Returns all instances above `settings.threshold`; merging them into one mask is the caller's job.

        Raises:
            UnsupportedPromptError: If a prompt's kind is beyond `capabilities`.
        """
        ...


class SegmenterAround:
    """A segmenter in front of another one: passes on what a subclass does not do itself."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    @property
    def capabilities(self) -> Capabilities:
        """Those of the segmenter behind it."""
        return self._segmenter.capabilities

    @property
    def device(self) -> str:
        """Where the segmenter behind it computes."""
        return self._segmenter.device

    def precision(self, settings: InferenceSettings) -> str:
        """Precision of the segmenter behind it."""
        return self._segmenter.precision(settings)

    def segment(
        self, encoding: Any, prompts: Sequence[SlicePrompt], settings: InferenceSettings
    ) -> list[SliceInstances]:
        """Answers of the segmenter behind it."""
        return self._segmenter.segment(encoding, prompts, settings)


@runtime_checkable
class PreparingSegmenter(Segmenter, Protocol):
    """A segmenter that can do a part of `encode` beforehand, in another thread and without its device."""

    def prepare(self, images: Sequence[SliceImage], settings: InferenceSettings) -> list[Any]:
        """Slices ready for `encode`, which takes them in place of the slices; errors are those of `encode`."""
        ...


class FollowedObject(Protocol):
    """One object on one slice, as a tracker drew it."""

    @property
    def index(self) -> int:
        """Which object, in the order of the prompts."""
        ...

    @property
    def z(self) -> int:
        """Which slice."""
        ...

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Shape (y, x) of the slice."""
        ...

    @property
    def score(self) -> float:
        """Probability that the object is on this slice at all."""
        ...

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What was done to fit."""
        ...


@runtime_checkable
class FollowingSegmenter(Segmenter, Protocol):
    """A segmenter whose `capabilities.propagation` is true: it follows objects through a volume."""

    def follow(
        self,
        encoding_of: Callable[[int], Any],
        count: int,
        prompts: Sequence[VolumePrompt],
        settings: InferenceSettings,
    ) -> Iterator[FollowedObject]:
        """For every object each of `count` slices once: upwards from its prompt, then downwards; slice by slice."""
        ...


@runtime_checkable
class CacheableSegmenter(Segmenter, Protocol):
    """A segmenter whose encodings can be kept on disk."""

    def encoding_identity(self, settings: InferenceSettings) -> tuple[str, ...]:
        """All that decides what the encoding of a slice is, apart from slice and weights."""
        ...

    def pack(self, encoding: Any) -> NDArray[np.generic]:
        """An encoding as one array."""
        ...

    def unpack(self, array: NDArray[np.generic], shape_yx: tuple[int, int], settings: InferenceSettings) -> Any:
        """The way back from `pack`; `ValueError` if the array does not fit."""
        ...
