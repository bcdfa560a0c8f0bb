"""The segmenter protocol: encode a slice once, then answer any number of prompts on it."""

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
    """Instances for one prompt on one slice, by falling score.

    Attributes:
        masks: Boolean, shape (n, y, x), at the size of the slice.
        scores: float32, shape (n,), in [0, 1].
        boxes_xyxy: float32, shape (n, 4), half-open pixels of the slice.
        semantic: Mask of the semantic head, shape (y, x), if the weights have one and the settings need it; empty
            if `presence` is not above the threshold (with tiles: of each tile).
        fallbacks: Measures taken to fit (for example `prompts-halved`).
        presence: Probability that the concept is on the slice at all, of tiles the highest; 0 if the weights do not
            give one. Scores of instances contain it already.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]
    semantic: NDArray[np.bool_] | None = None
    fallbacks: tuple[str, ...] = ()
    presence: float = 0.0

    def at(self, positions: NDArray[np.intp]) -> "SliceInstances":
        """The instances at these positions; all other fields stay."""
        return replace(
            self, masks=self.masks[positions], scores=self.scores[positions], boxes_xyxy=self.boxes_xyxy[positions]
        )

    @classmethod
    def of_masks(
        cls, masks: NDArray[np.bool_], scores: NDArray[np.float32], fallbacks: tuple[str, ...] = ()
    ) -> "SliceInstances":
        """Instances with the bounding boxes of their masks, (n, y, x), each of at least one pixel."""
        boxes = [(box.x0, box.y0, box.x1, box.y1) for box in map(BoxPrompt.around, masks)]
        return cls(masks, scores, np.array(boxes, dtype=np.float32).reshape(-1, 4), None, fallbacks)

    @classmethod
    def nothing(cls, shape_yx: tuple[int, int]) -> "SliceInstances":
        """No instance on a slice of this shape."""
        return cls(
            np.zeros((0, *shape_yx), dtype=bool), np.zeros(0, dtype=np.float32), np.zeros((0, 4), dtype=np.float32)
        )


class Segmenter(Protocol):
    """Loaded weights behind two methods. Not thread-safe: one segmenter per worker thread."""

    @property
    def capabilities(self) -> Capabilities:
        """Prompts that it accepts."""
        ...

    @property
    def device(self) -> str:
        """Device of its computations: `cpu` or `cuda:N`."""
        ...

    def precision(self, settings: InferenceSettings) -> str:
        """Precision of these settings on this device: `fp32`, `bf16`, `mixed`, or `uint8` for baselines."""
        ...

    def encode(self, images: Sequence[Any], settings: InferenceSettings) -> list[Any]:
        """Encode slices, or results of `prepare`.

        Each encoding is opaque, belongs to this segmenter and holds everything that `segment` needs.
        """
        ...

    def segment(
        self, encoding: Any, prompts: Sequence[SlicePrompt], settings: InferenceSettings
    ) -> list[SliceInstances]:
        """Answer each prompt on one encoded slice; as many answers as prompts, in order.

        Returns all instances above `settings.threshold`; merging them into one mask is the caller's job.

        Raises:
            UnsupportedPromptError: If `capabilities` does not include the kind of a prompt.
        """
        ...


class SegmenterAround:
    """Wrapper around another segmenter, to which it passes everything that a subclass does not override."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    @property
    def capabilities(self) -> Capabilities:
        """Capabilities of the wrapped segmenter."""
        return self._segmenter.capabilities

    @property
    def device(self) -> str:
        """Device of the wrapped segmenter."""
        return self._segmenter.device

    def precision(self, settings: InferenceSettings) -> str:
        """Precision of the wrapped segmenter."""
        return self._segmenter.precision(settings)

    def segment(
        self, encoding: Any, prompts: Sequence[SlicePrompt], settings: InferenceSettings
    ) -> list[SliceInstances]:
        """Answers of the wrapped segmenter."""
        return self._segmenter.segment(encoding, prompts, settings)


@runtime_checkable
class PreparingSegmenter(Segmenter, Protocol):
    """A segmenter that can do a part of `encode` earlier, in another thread and without its device."""

    def prepare(self, images: Sequence[SliceImage], settings: InferenceSettings) -> list[Any]:
        """Prepared slices, which `encode` accepts in place of slices; errors are those of `encode`."""
        ...


class FollowedObject(Protocol):
    """One object of a tracker on one slice."""

    @property
    def index(self) -> int:
        """Number of the object, in the order of the prompts."""
        ...

    @property
    def z(self) -> int:
        """The slice."""
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
        """Measures taken to fit."""
        ...


@runtime_checkable
class FollowingSegmenter(Segmenter, Protocol):
    """A segmenter with `capabilities.propagation`, which follows objects through a volume."""

    def follow(
        self,
        encoding_of: Callable[[int], Any],
        count: int,
        prompts: Sequence[VolumePrompt],
        settings: InferenceSettings,
    ) -> Iterator[FollowedObject]:
        """Every object on each of `count` slices once: upwards from its prompt, then downwards; slice by slice."""
        ...


@runtime_checkable
class CacheableSegmenter(Segmenter, Protocol):
    """A segmenter whose encodings can be kept on disk."""

    def encoding_identity(self, settings: InferenceSettings) -> tuple[str, ...]:
        """Everything that determines the encoding of a slice, apart from slice and weights."""
        ...

    def pack(self, encoding: Any) -> NDArray[np.generic]:
        """An encoding as one array."""
        ...

    def unpack(self, array: NDArray[np.generic], shape_yx: tuple[int, int], settings: InferenceSettings) -> Any:
        """Inverse of `pack`; `ValueError` if the array does not fit."""
        ...
