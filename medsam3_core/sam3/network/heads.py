"""Both heads on one slice; each neck runs at most once."""

from collections.abc import Sequence
from functools import cached_property

import torch

from medsam3_core.prompts.prompts import SlicePrompt
from medsam3_core.sam3.network.concept import TextEncoder, concept_query, detect
from medsam3_core.sam3.network.encoder import SliceEncoding, TrackerFeatures, detector_features, tracker_features
from medsam3_core.sam3.network.interactive import answer_clicks, object_clicks
from medsam3_core.sam3.network.network import Sam3Network
from medsam3_core.sam3.tensors.postprocess import Detections, boxes_of
from medsam3_core.sam3.tensors.transformers_internals import Sam3VisionEncoderOutput


class SliceHeads:
    """The heads of one network on one encoded slice."""

    def __init__(self, network: Sam3Network, text_encoder: TextEncoder, encoding: SliceEncoding) -> None:
        self.network = network
        self.encoding = encoding
        self._text_encoder = text_encoder

    def detect(self, prompts: Sequence[SlicePrompt]) -> list[Detections]:
        """Run the concept head on several prompts in one pass."""
        queries = [concept_query(prompt, self.encoding.shape_yx) for prompt in prompts]
        return detect(self.network, self._detector_features, queries, self._text_encoder)

    def click(self, prompt: SlicePrompt) -> Detections:
        """Run the interactive head, one pass per object; the score is its estimate of the IoU.

        Objects with an empty mask are dropped. No threshold applies, since the user asked for each object.
        """
        assert self.network.tracker is not None
        objects = object_clicks(prompt, self.encoding.shape_yx, self.network.architecture)
        best = [answer_clicks(self.network.tracker, self._tracker_features, one).best for one in objects]
        logits = torch.stack([mask_logits for mask_logits, _ in best])
        scores = torch.tensor([score for _, score in best], device=logits.device)
        drawn = (logits > 0).flatten(1).any(dim=1)
        return Detections(logits[drawn], scores[drawn], boxes_of(logits[drawn]))

    def text_notes(self, prompt: SlicePrompt) -> tuple[str, ...]:
        """Notes on a truncated text of a prompt."""
        return () if prompt.text is None else self._text_encoder(prompt.text).fallbacks

    @cached_property
    def _detector_features(self) -> Sam3VisionEncoderOutput:
        return detector_features(self.network, self.encoding)

    @cached_property
    def _tracker_features(self) -> TrackerFeatures:
        return tracker_features(self.network, self.encoding)
