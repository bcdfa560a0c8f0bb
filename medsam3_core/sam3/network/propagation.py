"""Propagation: the tracker follows a prompt on one slice through the volume, in both directions.

The tracker looks back a few slices for its spatial memory and 16 for its pointers. Older slices are dropped, so that
memory does not grow with the volume.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medsam3_core.errors import UsageError
from medsam3_core.prompts.prompts import VolumePrompt
from medsam3_core.sam3.network.encoder import SliceEncoding, TrackerFeatures, tracker_features
from medsam3_core.sam3.network.interactive import Clicks, object_clicks
from medsam3_core.sam3.network.network import TRACKER_DTYPE, Sam3Network
from medsam3_core.sam3.network.propagation_tracker import PropagationTracker
from medsam3_core.sam3.tensors.postprocess import masks_at
from medsam3_core.sam3.tensors.precision import without_autocast
from medsam3_core.sam3.tensors.transformers_internals import Sam3TrackerVideoInferenceSession

EncodingOf = Callable[[int], SliceEncoding]
"""Encodes slice z of the volume; called at most twice per slice, in order."""

_OBJECT = 1
_MAX_POINTS = 16
"""The prompt encoder was trained on few points; of more, the first and the last eight are kept."""


@dataclass(frozen=True, eq=False)
class TrackedSlice:
    """Mask of one tracked object on one slice.

    Attributes:
        index: Number of the object, in the order of the prompts.
        z: Slice.
        mask_logits: Shape (h, w) at the size of the mask head.
        object_logit: Above 0 if the object is present.
        shape_yx: Size of the slice.
        fallbacks: Steps taken to fit into memory, and other limits applied.
    """

    index: int
    z: int
    mask_logits: torch.Tensor
    object_logit: float
    shape_yx: tuple[int, int]
    fallbacks: tuple[str, ...] = ()

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The mask at the size of the slice."""
        mask: NDArray[np.bool_] = masks_at(self.mask_logits[None], self.shape_yx)[0]
        return mask

    @property
    def score(self) -> float:
        """Probability that the object is on this slice."""
        return float(torch.tensor(self.object_logit).sigmoid())


def propagate(
    network: Sam3Network, encoding_of: EncodingOf, count: int, prompts: Sequence[VolumePrompt]
) -> Iterator[TrackedSlice]:
    """Follow objects from their own slices through a volume of `count` slices: one sweep up, one sweep down.

    Each sweep encodes each slice once. The network must have a tracker.

    Yields:
        Each slice once per object: upwards from its prompt first, then downwards.

    Raises:
        UsageError: If a prompt lies outside the volume or is not one object.
    """
    for prompt in prompts:
        if not 0 <= prompt.z < count:
            msg = f"prompt for {prompt.prompt.structure!r} is on slice {prompt.z} of a volume of {count} slices"
            raise UsageError(msg)
    tracks = [_Track(network, index, one, count) for index, one in enumerate(prompts)]
    start, end = min(one.z for one in prompts), max(one.z for one in prompts)
    yield from _sweep(network, encoding_of, tracks, range(start, count), reverse=False)
    yield from _sweep(network, encoding_of, tracks, range(end - 1, -1, -1), reverse=True)


def _sweep(
    network: Sam3Network, encoding_of: EncodingOf, tracks: list["_Track"], order: range, *, reverse: bool
) -> Iterator[TrackedSlice]:
    for z in order:
        active = [track for track in tracks if (z < track.start if reverse else z >= track.start)]
        with torch.no_grad(), without_autocast(str(network.device)):
            encoding = encoding_of(z)
            features = tracker_features(network, encoding)
            drawn = [track.step(z, encoding, features, reverse=reverse) for track in active]
        yield from drawn


class TrackerSession(Sam3TrackerVideoInferenceSession):
    """The tracker's state for one object; it gets features in place of frames."""

    def __init__(self, device: torch.device, count: int) -> None:
        super().__init__(inference_device=device, inference_state_device=device, dtype=TRACKER_DTYPE)
        self._count = count

    @property
    def num_frames(self) -> int:
        """Slices of the volume."""
        return self._count


class _Track:
    """One object on its way through the volume."""

    def __init__(self, network: Sam3Network, index: int, prompt: VolumePrompt, count: int) -> None:
        assert network.tracker is not None
        asked = prompt.prompt
        if asked.masks and (asked.points or asked.boxes):
            msg = (
                f"prompt for {asked.structure!r} combines a drawn mask with points or boxes; propagation accepts a "
                "mask alone: leave them out, or prompt this slice only"
            )
            raise UsageError(msg)
        self._network = network
        self._tracker: PropagationTracker = network.tracker
        self._index = index
        self._prompt = prompt
        self._session = TrackerSession(network.device, count)
        self._notes: tuple[str, ...] = ()
        config = self._tracker.config
        self._look_back = max(config.num_maskmem, config.max_object_pointers_in_encoder)

    @property
    def start(self) -> int:
        """Slice of the prompt."""
        return self._prompt.z

    def step(self, z: int, encoding: SliceEncoding, features: TrackerFeatures, *, reverse: bool) -> TrackedSlice:
        """Segment the object on slice z and add it to the memory."""
        session = self._session
        session.cache.cache_vision_features(z, flattened_features(features))
        if z == self.start:
            self._add_prompt(encoding.shape_yx)
        output = self._tracker(session, frame_idx=z, reverse=reverse)
        self._forget(z, reverse=reverse)
        logit = float(output.object_score_logits.reshape(-1)[0])
        notes = (*encoding.fallbacks, *self._notes)
        return TrackedSlice(self._index, z, output.pred_masks[0, 0], logit, encoding.shape_yx, notes)

    def _add_prompt(self, shape_yx: tuple[int, int]) -> None:
        session, prompt = self._session, self._prompt.prompt
        objects = object_clicks(prompt, shape_yx, self._network.architecture)
        if len(objects) != 1:
            msg = f"prompt for {prompt.structure!r} holds {len(objects)} objects; propagation follows one at a time"
            raise UsageError(msg)
        index = session.obj_id_to_idx(_OBJECT)
        if prompt.masks:
            mask = torch.from_numpy(np.asarray(prompt.masks[0].mask, dtype=np.float32))
            session.add_mask_inputs(index, self.start, mask[None, None])
        else:
            count = len(objects[0].labels)
            if count > _MAX_POINTS:
                self._notes = (f"points-capped:{prompt.structure}:{count}>{_MAX_POINTS}",)
            session.add_point_inputs(index, self.start, _points(objects[0]))
        session.obj_with_new_inputs = [_OBJECT]

    def _forget(self, z: int, *, reverse: bool) -> None:
        """Drop outputs that later slices do not read; keep those near the prompt for the sweep down."""
        outputs: dict[str, Any] = self._session.output_dict_per_obj[0]
        for kept in (*outputs["cond_frame_outputs"].values(), *outputs["non_cond_frame_outputs"].values()):
            kept.pop("high_res_masks", None)
        seen = outputs["non_cond_frame_outputs"]
        for old in [one for one in seen if abs(one - z) > self._look_back and abs(one - self.start) > self._look_back]:
            del seen[old]


def flattened_features(features: TrackerFeatures) -> dict[str, list[torch.Tensor]]:
    """Features in the tracker's format: (h * w, 1, c) per level."""
    maps = [one.flatten(2).permute(2, 0, 1) for one in features.maps]
    return {"vision_feats": maps, "vision_pos_embeds": [features.position.flatten(2).permute(2, 0, 1)]}


def _points(clicks: Clicks) -> dict[str, torch.Tensor]:
    coordinates, labels = clicks.coordinates, clicks.labels
    if len(labels) > _MAX_POINTS:
        half = _MAX_POINTS // 2
        coordinates = torch.cat([coordinates[:half], coordinates[-half:]])
        labels = torch.cat([labels[:half], labels[-half:]])
    return {"point_coords": coordinates[None, None], "point_labels": labels[None, None]}
