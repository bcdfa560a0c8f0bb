"""Session of the agent on one volume; every slice is encoded once."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam3_core.cases.geometry import VolumeGeometry
from medsam3_core.digests import digest_array
from medsam3_core.errors import UsageError
from medsam3_core.inference.predictions import VolumePrediction
from medsam3_core.inference.protocol import Segmenter, SegmenterAround, SliceImage
from medsam3_core.inference.volumes import VolumeRequest, segment_volumes
from medsam3_core.prompts.checks import require_inside
from medsam3_core.prompts.prompts import BoxPrompt, PointPrompt, SlicePrompt
from medsam3_core.settings.inference import InferenceSettings

SliceLoader = Callable[[int, str], SliceImage]
_KEPT_BYTES = 2 * 2**30
"""Memory of encodings kept between turns: 200 slices at full size in bf16, 100 in fp32."""
_STRUCTURE = "object"


@dataclass(frozen=True, eq=False)
class Candidate:
    """Result of one prompt: id within a case (from 1), prompt in words, objects by falling score."""

    number: int
    asked: str
    prediction: VolumePrediction

    def labels(self) -> NDArray[np.uint16]:
        """Objects 1..n, shape (z, y, x)."""
        return self.prediction.labels(_STRUCTURE)

    @property
    def scores(self) -> NDArray[np.float32]:
        """Score of object 1..n."""
        return self.prediction.confidence(_STRUCTURE)

    @property
    def empty(self) -> bool:
        """True if nothing was found."""
        return not len(self.scores)


class EncodeOnce(SegmenterAround):
    """A segmenter with a memory of encodings.

    If they do not fit, the most recent one is dropped: prompts go through the slices in order, again and again, so that
    it is needed last.
    """

    def __init__(self, segmenter: Segmenter, keep_bytes: int = _KEPT_BYTES) -> None:
        super().__init__(segmenter)
        self._room = keep_bytes
        self._encodings: dict[tuple[str, int, str, int], Any] = {}

    def encode(self, images: Sequence[SliceImage], settings: InferenceSettings) -> list[Any]:
        """Encode slices; those seen with these settings come from memory."""
        keys = [(digest_array(image), settings.resolution, str(settings.dtype), settings.tiles) for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._encodings}
        made = dict(zip(new, self._segmenter.encode(list(new.values()), settings) if new else (), strict=True))
        found = [made[key] if key in made else self._encodings[key] for key in keys]
        for key, encoding in zip(keys, found, strict=True):
            self._keep(key, encoding)
        return found

    def _keep(self, key: tuple[str, int, str, int], encoding: Any) -> None:
        """Store an encoding as the most recent, in place of the previous if need be."""
        if key in self._encodings:
            self._encodings[key] = self._encodings.pop(key)
            return
        size = _bytes_of(encoding)
        while self._encodings and size > self._room:
            _, latest = self._encodings.popitem()
            self._room += _bytes_of(latest)
        if size <= self._room:
            self._encodings[key] = encoding
            self._room -= size


def _bytes_of(encoding: Any) -> int:
    """Memory of an encoding; 0 if unknown."""
    return int(getattr(encoding, "nbytes", 0))


@dataclass
class AgentSession:
    """One volume, one segmenter, and all results so far.

    Attributes:
        slices: Loads slice z with an intensity policy, for the segmenter.
        voxels: Loads slice z in the image's own unit, for measurements.
        windows: Window per structure, if the recipe has one.
        candidates: Results by number.
        notes: Fallbacks, each once.
    """

    segmenter: Segmenter
    slices: SliceLoader
    geometry: VolumeGeometry
    settings: InferenceSettings
    voxels: Callable[[int], NDArray[Any]]
    windows: Mapping[str, str] = field(default_factory=dict)
    candidates: dict[int, Candidate] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    _by_question: dict[tuple[Any, ...], Candidate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.segmenter = EncodeOnce(self.segmenter)

    @property
    def depth(self) -> int:
        """Slices of the volume."""
        return self.geometry.shape_zyx[0]

    def segment_texts(
        self, texts: Sequence[str], slices: Iterable[int] | None = None, *, window: str | None = None
    ) -> list[Candidate]:
        """Segment several texts in one pass over the slices; results are cached.

        Args:
            texts: Text prompts.
            slices: Slices; all by default.
            window: Intensity policy; None for that of the settings.
        """
        where = tuple(range(self.depth) if slices is None else slices)
        missing = [text for text in dict.fromkeys(texts) if ("text", text, where, window) not in self._by_question]
        prompts = {text: {z: [SlicePrompt(_STRUCTURE, text=text)] for z in where} for text in missing}
        for text, drawn in self._drawn(prompts, window).items():
            self._by_question["text", text, where, window] = self._keep(f"text {text!r}", drawn)
        return [self._by_question["text", text, where, window] for text in texts]

    def segment_box(self, z: int, box: BoxPrompt, text: str | None = None, *, window: str | None = None) -> Candidate:
        """Segment with a box on one slice, as an example of `text` if given; `window` as above."""
        prompt = SlicePrompt(_STRUCTURE, text=text, boxes=(box,))
        asked = f"box {box.x0:g},{box.y0:g},{box.x1:g},{box.y1:g} on slice {z}" + (f" of {text!r}" if text else "")
        return self._ask(("box", z, box, text, window), asked, z, prompt, window)

    def segment_points(self, z: int, points: Sequence[PointPrompt], *, window: str | None = None) -> Candidate:
        """Segment one object from points on one slice; `window` as above."""
        prompt = SlicePrompt(_STRUCTURE, points=(tuple(points),), per_instance=True)
        return self._ask(("points", z, tuple(points), window), f"{len(points)} points on slice {z}", z, prompt, window)

    def candidate(self, number: int, among: Collection[int]) -> Candidate:
        """A candidate by its id; ids outside `among`, those of other requests, do not exist for the caller.

        Raises:
            UsageError: If there is none; lists those that exist.
        """
        if number not in among:
            known = ", ".join(map(str, among)) or "none yet"
            msg = f"there is no mask {number}; masks so far: {known}"
            raise UsageError(msg)
        return self.candidates[number]

    def _ask(self, key: tuple[Any, ...], asked: str, z: int, prompt: SlicePrompt, window: str | None) -> Candidate:
        require_inside(prompt, self.geometry.shape_zyx[1:])
        if key not in self._by_question:
            self._by_question[key] = self._keep(asked, self._drawn({asked: {z: [prompt]}}, window)[asked])
        return self._by_question[key]

    def _drawn(
        self, prompts: Mapping[str, Mapping[int, Sequence[SlicePrompt]]], window: str | None
    ) -> dict[str, VolumePrediction]:
        if not prompts:
            return {}
        settings, windows = dict.fromkeys(prompts, self.settings), {_STRUCTURE: window} if window else {}
        request = VolumeRequest(self.slices, self.geometry, prompts, settings, [_STRUCTURE], windows=windows)
        return segment_volumes(self.segmenter, [request])[0]

    def _keep(self, asked: str, prediction: VolumePrediction) -> Candidate:
        self.notes.update(dict.fromkeys(prediction.fallbacks))
        kept = Candidate(len(self.candidates) + 1, asked, prediction)
        self.candidates[kept.number] = kept
        return kept
