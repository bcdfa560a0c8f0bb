"""What propagation is trained for: an object shown on one slice is found again on the slices after it.

The steps are those of inference, one slice after the other through the tracker's own memory, but with gradients.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.models.sam3.modeling_sam3 import Sam3VisionNeck

from medsam3_core.sam3.encoder import TrackerFeatures, maps_of, position_map, tracker_maps
from medsam3_core.sam3.propagation import TrackerSession, flattened_features
from medsam3_core.sam3.propagation_tracker import PropagationTracker
from medsam3_core.training.interactive_objective import (
    InteractiveLoss,
    InteractiveWeights,
    loss_means,
    object_losses,
    require_shared_positions,
)
from medsam3_core.training.samples import InteractivePrompt

_OBJECT = 1
_NOTHING_SHOWN: dict[str, Any] = {"point_inputs": None, "mask_inputs": None}


class PropagationObjective:
    """Loss of the tracker on short clips of neighbouring slices, one object each.

    Args:
        tracker: Memory, prompt encoder and mask decoder; trained in place, in evaluation mode as in inference.
        neck: The tracker's neck; trained in place.
        weights: Proportions of the losses.

    Raises:
        WeightsError: If prompt encoder and image have different tables of positions.
    """

    def __init__(
        self, tracker: PropagationTracker, neck: Sam3VisionNeck, weights: InteractiveWeights | None = None
    ) -> None:
        require_shared_positions(tracker)
        self._tracker = tracker
        self._neck = neck
        self._weights = InteractiveWeights() if weights is None else weights

    def __call__(
        self, trunk: torch.Tensor, masks: NDArray[np.bool_], prompt: InteractivePrompt, *, depth: int | None = None
    ) -> InteractiveLoss:
        """Mean loss over the slices of a clip; the first counts only where the prompt leaves something to answer.

        Args:
            trunk: Features of consecutive slices, the prompted one first, shape (t, c, grid, grid).
            masks: The object on each of them, boolean, shape (t, side, side); all False where it has ended.
            prompt: How it is shown on the first slice: points and box, or a drawn mask.
            depth: Slices of the volume, which decides how distances between slices are encoded; default t.
        """
        was_training = self._tracker.training
        self._tracker.eval()  # as in inference; in training mode the tracker keeps no object logits
        try:
            losses = [
                object_losses(*candidates, wanted[None])
                for candidates, wanted in self._follow(trunk, masks, prompt, depth or len(masks))
            ]
        finally:
            self._tracker.train(was_training)
        total = torch.cat([one.weighted(self._weights) for one in losses])
        return InteractiveLoss(total.mean(), loss_means(losses), len(losses))

    def _follow(
        self, trunk: torch.Tensor, masks: NDArray[np.bool_], prompt: InteractivePrompt, depth: int
    ) -> Iterator[tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]]:
        """Per slice that has to be answered: all candidates of the decoder, and the reference."""
        tracker = self._tracker
        fine, middle, coarse = tracker_maps(tracker, maps_of(self._neck, trunk))
        session = TrackerSession(trunk.device, max(depth, len(masks)))
        index = session.obj_id_to_idx(_OBJECT)
        shown = _inputs(prompt, trunk.device)
        for z, mask in enumerate(masks):
            here = TrackerFeatures((fine[z : z + 1], middle[z : z + 1], coarse[z : z + 1]), position_map(coarse[:1]))
            session.cache.cache_vision_features(z, flattened_features(here))
            prompted = z == 0
            with _candidates_of(tracker) as candidates:
                output = tracker._run_single_frame_inference(
                    inference_session=session,
                    frame_idx=z,
                    obj_idx=index,
                    batch_size=1,
                    is_init_cond_frame=prompted,
                    reverse=False,
                    **(shown if prompted else _NOTHING_SHOWN),
                )
            session.store_output(index, z, output_value=output, is_conditioning_frame=prompted)
            tracker._batch_encode_memories(
                session, z, [index], [output["high_res_masks"]], [output["object_score_logits"]], [prompted]
            )
            if not prompted or shown["mask_inputs"] is None:
                yield candidates[-1], torch.from_numpy(np.ascontiguousarray(mask)).to(trunk.device)


@contextmanager
def _candidates_of(tracker: PropagationTracker) -> Iterator[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
    """What the mask decoder answers meanwhile: mask logits, estimated IoU and object logit of each pass."""
    answers: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def note(_module: torch.nn.Module, _inputs: object, output: tuple[torch.Tensor, ...]) -> None:
        masks, iou, _, present = output
        answers.append((masks[:, 0], iou[:, 0], present.reshape(-1)))

    hook = tracker.mask_decoder.register_forward_hook(note)
    try:
        yield answers
    finally:
        hook.remove()


def _inputs(prompt: InteractivePrompt, device: torch.device) -> dict[str, Any]:
    """The prompt as the tracker takes it: points, or a mask, never both."""
    if prompt.mask_input is not None:
        drawn = torch.from_numpy(prompt.mask_input.astype(np.float32)).to(device)
        return {"point_inputs": None, "mask_inputs": drawn[None, None]}
    points = torch.from_numpy(prompt.points_xy).to(device)
    labels = torch.from_numpy(prompt.point_labels.astype(np.int32)).to(device)
    shown = {"point_coords": points[None, None], "point_labels": labels[None, None]}
    return {"point_inputs": shown, "mask_inputs": None}
