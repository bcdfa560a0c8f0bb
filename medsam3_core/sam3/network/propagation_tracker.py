"""`Sam3TrackerVideoModel`, corrected to match the official results.

The official code differs from `transformers` in the memory of a slice:

- a predicted mask is thresholded (or passed through a sigmoid) at the model's size, then resized for the memory;
- a given mask counts as certain: it becomes +-1024 and is resized to the mask head and back for the memory; the object
  pointer is made from the mask at 16 times the token grid.
"""

from typing import Any

import torch
from torch.nn import functional
from transformers import Sam3TrackerVideoConfig, Sam3TrackerVideoModel

from medsam3_core.sam3.tensors.transformers_internals import Sam3TrackerVideoImageSegmentationOutput

_CERTAIN = 1024.0
"""Logit of a given mask."""
_PRESENT, _ABSENT = 10.0, -10.0
"""Object logit of a given mask, with and without any pixel."""
_MEMORY_STRIDE = 16
"""Size of masks in the memory, in units of the token grid."""


class PropagationTracker(Sam3TrackerVideoModel):
    """The tracker without encoder: prompt encoder, mask decoder and memory."""

    def __init__(self, config: Sam3TrackerVideoConfig) -> None:
        super().__init__(config, remove_vision_encoder=True)

    @property
    def grid(self) -> int:
        """Side of the token grid."""
        return int(self.backbone_feature_sizes[-1][0])

    def _use_mask_as_output(
        self, backbone_features: torch.Tensor, high_res_features: list[torch.Tensor], mask_inputs: torch.Tensor
    ) -> Sam3TrackerVideoImageSegmentationOutput:
        """Use a given mask, (1, 1, y, x) of 0 and 1, as the result on its slice."""
        low, side = 4 * self.grid, (self.image_size, self.image_size)
        certain = torch.where(mask_inputs > 0.5, _CERTAIN, -_CERTAIN)
        low_res = _resized(certain, (low, low), antialias=True)
        fine = _resized(mask_inputs.float(), (_MEMORY_STRIDE * self.grid,) * 2, antialias=True)
        pointer = self._single_frame_forward(
            input_masks=self.mask_downsample(fine.to(backbone_features.dtype)),
            image_embeddings=[*high_res_features, backbone_features],
            multimask_output=False,
        ).object_pointer
        present = (mask_inputs.flatten(1) > 0).any(dim=1)[:, None, None]
        return Sam3TrackerVideoImageSegmentationOutput(
            pred_masks=low_res,
            high_res_masks=_resized(low_res, side),
            object_pointer=torch.where(present, pointer, self.no_object_pointer),
            object_score_logits=torch.where(present, _PRESENT, _ABSENT).to(pointer.dtype),
        )

    def _encode_new_memory(
        self,
        current_vision_feats: torch.Tensor,
        pred_masks_high_res: torch.Tensor,
        object_score_logits: torch.Tensor,
        is_mask_from_pts: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode a slice and its mask: threshold or sigmoid first, then resize.

        Args:
            current_vision_feats: Shape (grid * grid, n, c).
            pred_masks_high_res: Logits at the model's size, shape (n, 1, side, side).
            object_score_logits: Shape (n, 1, 1).
            is_mask_from_pts: True if this slice has a prompt.
        """
        logits = pred_masks_high_res.float()
        share = (logits > 0).float() if is_mask_from_pts else torch.sigmoid(logits)
        scaled = share * self.config.sigmoid_scale_for_mem_enc + self.config.sigmoid_bias_for_mem_enc
        masks = _resized(scaled, (_MEMORY_STRIDE * self.grid,) * 2, antialias=True)
        count = current_vision_feats.shape[1]
        pixels = current_vision_feats.permute(1, 2, 0).reshape(count, -1, self.grid, self.grid)
        features, positions = self.memory_encoder(pixels, masks.to(pixels.dtype))
        if self.occlusion_spatial_embedding_parameter is not None:
            hidden = (object_score_logits <= 0).to(features.dtype).reshape(count, 1, 1, 1)
            features = features + hidden * self.occlusion_spatial_embedding_parameter[..., None, None]
        # The official code keeps memories in bf16.
        return _tokens(features.to(torch.bfloat16)), _tokens(positions.to(pixels.dtype))


def _resized(masks: torch.Tensor, size: tuple[int, ...], **options: Any) -> torch.Tensor:
    if masks.shape[-2:] == size:
        return masks
    return functional.interpolate(masks, size=size, mode="bilinear", align_corners=False, **options)


def _tokens(maps: torch.Tensor) -> torch.Tensor:
    """(n, c, h, w) as (h * w, n, c)."""
    return maps.flatten(2).permute(2, 0, 1)
