"""The concept head: finds all instances of a concept from text and exemplar boxes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from transformers.modeling_outputs import BaseModelOutputWithPooling

from medsam3_core.prompts.prompts import BoxPrompt, SlicePrompt
from medsam3_core.sam3.network.network import Sam3Network
from medsam3_core.sam3.tensors.postprocess import Detections
from medsam3_core.sam3.tensors.tokenizer import VISUAL, TextTokenizer
from medsam3_core.sam3.tensors.transformers_internals import Sam3VisionEncoderOutput

PADDING_LABEL = -10
_PADDING_BOX = (0.5, 0.5, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class ConceptQuery:
    """One prompt as input of the concept head.

    Attributes:
        text: Key of the text features.
        boxes_cxcywh: Exemplars in fractions of the slice; empty for text alone.
        labels: 1 for an exemplar, 0 for a counter-example.
    """

    text: str
    boxes_cxcywh: tuple[tuple[float, float, float, float], ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """Encoded text: features (1, 32, d), mask (1, 32), and a note if the text was truncated."""

    features: torch.Tensor
    attention_mask: torch.Tensor
    fallbacks: tuple[str, ...]


def concept_query(prompt: SlicePrompt, shape_yx: tuple[int, int]) -> ConceptQuery:
    """Convert a prompt of text, boxes or both; boxes alone get the text "visual"."""
    boxes = tuple(_fractions(box, shape_yx) for box in prompt.boxes)
    return ConceptQuery(prompt.text or VISUAL, boxes, tuple(int(box.positive) for box in prompt.boxes))


class TextEncoder:
    """Text features, computed once per text."""

    def __init__(self, network: Sam3Network, tokenizer: TextTokenizer) -> None:
        self._network = network
        self._tokenizer = tokenizer
        self._cache: dict[str, TextFeatures] = {}

    def __call__(self, text: str) -> TextFeatures:
        """Features of one text.

        Raises:
            UsageError: If the text is empty or contains a special token.
        """
        if text not in self._cache:
            network, tokens = self._network, self._tokenizer(text)
            mask = tokens.attention_mask.to(network.device)
            encode, project = network.detector.text_encoder, network.detector.text_projection
            hidden = encode(input_ids=tokens.input_ids.to(network.device), attention_mask=mask)
            features = project(hidden.last_hidden_state.to(network.precision.heads))
            self._cache[text] = TextFeatures(features, mask, tokens.fallbacks)
        return self._cache[text]


def detect(
    network: Sam3Network, features: Sam3VisionEncoderOutput, queries: Sequence[ConceptQuery], text_encoder: TextEncoder
) -> list[Detections]:
    """One pass of the concept head: several prompts on one slice.

    The official head always reads a geometry token; `transformers` omits it without boxes. So every prompt has at least
    one box, if need be a masked padding box.
    """
    texts = [text_encoder(query.text) for query in queries]
    boxes, labels = padded_boxes([(query.boxes_cxcywh, query.labels) for query in queries])
    output = network.detector(
        vision_embeds=_repeated(features, len(queries)),
        text_embeds=BaseModelOutputWithPooling(pooler_output=torch.cat([text.features for text in texts])),
        attention_mask=torch.cat([text.attention_mask for text in texts]),
        input_boxes=boxes.to(device=network.device, dtype=network.precision.heads),
        input_boxes_labels=labels.to(network.device),
    )
    presence = output.presence_logits.float().sigmoid()
    scores = output.pred_logits.float().sigmoid() * presence
    return [
        Detections(output.pred_masks[i], scores[i], output.pred_boxes[i].float(), output.semantic_seg[i, 0], there)
        for i, there in enumerate(presence.flatten().tolist())
    ]


def padded_boxes(
    exemplars: Sequence[tuple[ArrayLike, Sequence[int] | NDArray[np.int64]]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Exemplars of n prompts side by side: boxes (n, k, 4), labels (n, k) with -10 for padding, k at least 1.

    Args:
        exemplars: Per prompt its boxes, cxcywh in fractions of the slice, and 1 or 0 for each.
    """
    slots = max(1, *(len(labels) for _, labels in exemplars), 1)
    boxes = torch.tensor(_PADDING_BOX, dtype=torch.float32).repeat(len(exemplars), slots, 1)
    labels = torch.full((len(exemplars), slots), PADDING_LABEL, dtype=torch.long)
    for row, (own, kinds) in enumerate(exemplars):
        if count := len(kinds):
            boxes[row, :count] = torch.as_tensor(own, dtype=torch.float32)
            labels[row, :count] = torch.as_tensor(kinds)
    return boxes, labels


def _repeated(features: Sam3VisionEncoderOutput, count: int) -> Sam3VisionEncoderOutput:
    def repeat(maps: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor | None, ...]:
        return tuple(one if one is None else one.expand(count, -1, -1, -1) for one in maps)

    return Sam3VisionEncoderOutput(
        fpn_hidden_states=repeat(features.fpn_hidden_states),
        fpn_position_encoding=repeat(features.fpn_position_encoding),
    )


def _fractions(box: BoxPrompt, shape_yx: tuple[int, int]) -> tuple[float, float, float, float]:
    height, width = shape_yx
    return (
        (box.x0 + box.x1) / 2 / width,
        (box.y0 + box.y1) / 2 / height,
        (box.x1 - box.x0) / width,
        (box.y1 - box.y0) / height,
    )
