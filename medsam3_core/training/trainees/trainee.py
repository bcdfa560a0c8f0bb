"""SAM3 in training: the concept head on several prompts per slice, with outputs of all decoder layers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medsam3_core.sam3.keys.layouts import HUGGING_FACE_PREFIXES, Part
from medsam3_core.sam3.network.concept import PADDING_LABEL
from medsam3_core.sam3.network.encoder import maps_of, position_map
from medsam3_core.sam3.network.network import Sam3Weights, build_network, match_weights
from medsam3_core.sam3.tensors.precision import precision_for
from medsam3_core.sam3.tensors.transformers_internals import inverse_sigmoid
from medsam3_core.settings.inference import Dtype
from medsam3_core.training.trainees.lora import LoraPlan, add_adapters, merged_state

_UNREAD = (
    "neck.fpn_layers.3.",
    "fpn_layers.3.",
    "text_encoder.text_projection.",
    "pixel_decoder.conv_layers.2.",
    "pixel_decoder.norms.2.",
)
"""Parameters without influence on results; not trained."""


@dataclass(frozen=True, eq=False)
class ConceptAnswers:
    """Output of the concept head for all prompts of a batch.

    Attributes:
        logits: Query scores of every decoder layer, shape (layers, prompts, queries); the last is the result.
        boxes_cxcywh: Boxes in fractions of the side, shape (layers, prompts, queries, 4).
        presence: Presence logits, shape (layers, prompts).
        masks: Mask logits of the last layer, shape (prompts, queries, h, w).
        semantic: Semantic logits, shape (prompts, h, w).
    """

    logits: torch.Tensor
    boxes_cxcywh: torch.Tensor
    presence: torch.Tensor
    masks: torch.Tensor
    semantic: torch.Tensor


class Trainee(nn.Module):
    """The modules of weights in fp32, with gradients.

    With `lora`, adapters are trained in place of the weights; `gradient_checkpointing` recomputes activations instead
    of keeping them.

    Raises:
        UsageError: If `lora` matches no layer.
    """

    def __init__(
        self,
        weights: Sam3Weights,
        device: str = "cpu",
        *,
        lora: LoraPlan | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        network = build_network(weights, precision_for(Dtype.FP32, device), device, to_learn=True)
        self.detector = network.detector
        self.tracker = network.tracker
        self.tracker_neck = network.tracker_neck
        self.architecture = weights.architecture
        self._source = weights.source
        self._vocabulary = weights.vocabulary
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not any(unread in name for unread in _UNREAD))
        if lora is not None:
            add_adapters(self, self.detector, lora)
        if gradient_checkpointing:
            _checkpoint_gradients(self.detector)
        self.train()

    def weights(self) -> Sam3Weights:
        """The current values as weights, for inference and export."""
        modules = {Part.DETECTOR: self.detector, Part.TRACKER: self.tracker, Part.TRACKER_NECK: self.tracker_neck}
        tensors = {
            HUGGING_FACE_PREFIXES[part] + name: tensor.detach()
            for part, module in modules.items()
            if module is not None
            for name, tensor in merged_state(module).items()
        }
        return match_weights(tensors, self.architecture, self._source, self._vocabulary)

    def trunk(self, pixels: torch.Tensor) -> torch.Tensor:
        """Trunk maps, shape (slices, c, grid, grid), of pixel values (slices, 3, side, side) in [-1, 1]."""
        tokens = self.detector.vision_encoder.backbone(pixels).last_hidden_state
        grid = self.architecture.grid
        maps: torch.Tensor = tokens.transpose(1, 2).reshape(len(pixels), -1, grid, grid)
        return maps

    def answer_concepts(
        self,
        trunk: torch.Tensor,
        slice_index: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        boxes_cxcywh: torch.Tensor,
        box_labels: torch.Tensor,
    ) -> ConceptAnswers:
        """One pass of the concept head over all prompts of a batch.

        Arguments are the trunk maps of the slices, and tensors as in `ConceptBatch`.
        """
        detector = self.detector
        maps = maps_of(detector.vision_encoder.neck, trunk)
        position = position_map(maps[-1])[slice_index]
        features = [one[slice_index] for one in maps]
        text = _text_features(detector, input_ids, attention_mask)
        valid = box_labels != PADDING_LABEL
        with torch.autocast(trunk.device.type, enabled=False):  # box pooling does not support bf16
            geometry = detector.geometry_encoder(
                box_embeddings=boxes_cxcywh,
                box_mask=valid,
                box_labels=torch.where(valid, box_labels, 0),
                img_feats=(features[-1].float(),),
                img_pos_embeds=(position.float(),),
            )
        prompt = torch.cat([text, geometry.last_hidden_state], dim=1)
        prompt_mask = torch.cat([attention_mask.bool(), geometry.attention_mask], dim=1)
        encoded = detector.detr_encoder(
            vision_features=[features[-1]], text_features=prompt, vision_pos_embeds=[position], text_mask=prompt_mask
        )
        decoded = detector.detr_decoder(
            vision_features=encoded.last_hidden_state,
            text_features=encoded.text_features,
            vision_pos_encoding=encoded.pos_embeds_flattened,
            text_mask=prompt_mask,
            spatial_shapes=encoded.spatial_shapes,
        )
        hidden = decoded.intermediate_hidden_states
        offsets = detector.detr_decoder.box_head(hidden)
        boxes = (inverse_sigmoid(decoded.reference_boxes) + offsets).sigmoid()
        logits = detector.dot_product_scoring(hidden, encoded.text_features, prompt_mask).squeeze(-1)
        drawn = detector.mask_decoder(
            decoder_queries=hidden[-1],
            backbone_features=features,
            encoder_hidden_states=encoded.last_hidden_state,
            prompt_features=prompt,
            prompt_mask=prompt_mask,
        )
        presence = decoded.presence_logits.reshape(len(hidden), -1)
        return ConceptAnswers(logits, boxes, presence, drawn.pred_masks, drawn.semantic_seg[:, 0])


def _text_features(detector: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Text features of every prompt; equal texts are encoded once."""
    rows, inverse = torch.unique(input_ids, dim=0, return_inverse=True)
    masks = (rows != 0).long()
    hidden = detector.text_encoder(input_ids=rows, attention_mask=masks).last_hidden_state
    features: torch.Tensor = detector.text_projection(hidden)[inverse]
    return features


def _checkpoint_gradients(detector: Any) -> None:
    """Enable gradient checkpointing, which Sam3Model supports without declaring it."""
    type(detector).supports_gradient_checkpointing = True
    detector.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
