"""The mask decoder of the concept head, split so that prompts on one slice share work.

The pixel decoder adds the prompt's map, enlarged twofold, to a map of the neck and convolves the sum. A convolution is
linear: the map of the neck is convolved once per slice, only the rest per prompt. Enlarging by repetition plus
convolution is one transposed convolution with a 4 x 4 kernel, 4 multiplications per pixel in place of 9. Queries are
projected to the channels of the pixels, not 83,000 pixels to those of the queries. Channels come last in memory, which
is faster on a CPU. The result equals that of `transformers` within the rounding of fp32.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.masking_utils import create_bidirectional_mask

from medsam3_core.sam3.tensors.transformers_internals import Sam3MaskDecoderOutput

_STEP = 2
"""Size ratio of neighbouring maps of the neck."""
_LAYOUT = torch.channels_last


class SharedPixelDecoder(nn.Module):
    """A pixel decoder of `transformers` on maps of the neck from `convolved_skips`; layers go from coarse to fine."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.conv_layers, self.norms = decoder.conv_layers, decoder.norms
        self._enlarging = [enlarging_kernel(layer.weight) for layer in self.conv_layers]

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Pixel embeddings (n, c, h, w) at the size of the first map.

        Maps have shape (n, c, h, w), finest first; the last is the prompt's, the others are convolved.
        """
        drawn = maps[-1].contiguous(memory_format=_LAYOUT)
        for skip, kernel, norm in zip(reversed(maps[:-1]), self._enlarging, self.norms, strict=False):
            drawn = functional.conv_transpose2d(drawn, kernel, stride=_STEP, padding=1).add_(skip)
            drawn = functional.relu_(norm(drawn))
        return drawn

    def convolved_skips(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Convolve all maps of the neck but the coarsest, with bias, for `forward`.

        Maps have shape (n, c, h, w), finest first, each twice as large as the next. The convolution runs in the neck's
        precision; the result has that of this decoder.
        """
        layers = reversed(self.conv_layers[: len(maps) - 1])
        skips = [_convolved(one, layer) for one, layer in zip(maps[:-1], layers, strict=True)]
        return [*skips, maps[-1].to(self.conv_layers[0].weight.dtype)]


def _convolved(one: torch.Tensor, layer: Any) -> torch.Tensor:
    """Convolve a map in its own precision; the result has the layer's."""
    weight, bias = layer.weight.to(one.dtype), layer.bias.to(one.dtype)
    convolved = functional.conv2d(one.contiguous(memory_format=_LAYOUT), weight, bias, padding=1)
    return convolved.to(layer.weight.dtype)


def enlarging_kernel(weight: torch.Tensor) -> torch.Tensor:
    """Kernel of the transposed convolution, stride 2, that equals repeating pixels 2 x 2 and convolving.

    Turns the weight of a 3 x 3 convolution, shape (out, in, 3, 3), into shape (in, out, 4, 4), channels last; both have
    a margin of 1.
    """
    turned = weight.flip(-2, -1).transpose(0, 1)
    spread = functional.pad(turned, (1, 1, 1, 1))  # sums over the 2 x 2 copies of a pixel
    return (spread[..., 1:, 1:] + spread[..., 1:, :-1] + spread[..., :-1, 1:] + spread[..., :-1, :-1]).contiguous(
        memory_format=_LAYOUT
    )


class SharedMaskDecoder(nn.Module):
    """A mask decoder of `transformers`, same parameters, on maps of `SharedPixelDecoder.convolved_skips`."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self._config = decoder.config
        self.pixel_decoder = SharedPixelDecoder(decoder.pixel_decoder)
        self.prompt_cross_attn, self.prompt_cross_attn_norm = decoder.prompt_cross_attn, decoder.prompt_cross_attn_norm
        self.mask_embedder, self.instance_projection = decoder.mask_embedder, decoder.instance_projection
        self.semantic_projection = decoder.semantic_projection

    def forward(
        self,
        decoder_queries: torch.Tensor,
        backbone_features: list[torch.Tensor],
        encoder_hidden_states: torch.Tensor,
        prompt_features: torch.Tensor,
        prompt_mask: torch.Tensor | None = None,
        **_options: Any,
    ) -> Sam3MaskDecoderOutput:
        """Compute the masks of all queries and the semantic mask.

        Args:
            decoder_queries: Shape (n, queries, c).
            backbone_features: Maps of the neck, finest first, all but the coarsest convolved.
            encoder_hidden_states: Tokens of the slice after fusion, shape (n, h * w, c), h and w of the coarsest map.
            prompt_features: Tokens of the prompts, shape (n, tokens, c).
            prompt_mask: True for tokens that count, shape (n, tokens).
            **_options: Without effect in inference.
        """
        *skips, coarse = backbone_features
        found = self._after_the_prompt(encoder_hidden_states, prompt_features, prompt_mask)
        pixels = self.pixel_decoder([*skips, found.transpose(1, 2).unflatten(2, coarse.shape[-2:])])
        embedded = self.mask_embedder(decoder_queries)
        projection = self.instance_projection
        offset = embedded @ projection.bias[:, None]
        masks = torch.baddbmm(offset, embedded @ projection.weight[:, :, 0, 0], pixels.flatten(2))
        return Sam3MaskDecoderOutput(
            pred_masks=masks.unflatten(2, pixels.shape[-2:]), semantic_seg=self.semantic_projection(pixels)
        )

    def _after_the_prompt(
        self, tokens: torch.Tensor, prompt: torch.Tensor, prompt_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Tokens of the slice after cross-attention to the prompt, shape (n, h * w, c)."""
        normed = self.prompt_cross_attn_norm(tokens)
        mask = None
        if prompt_mask is not None:
            mask = create_bidirectional_mask(
                config=self._config, inputs_embeds=normed, encoder_hidden_states=prompt, attention_mask=prompt_mask
            )
        read: torch.Tensor = self.prompt_cross_attn(query=normed, key=prompt, value=prompt, attention_mask=mask)[0]
        return tokens + read


def share_mask_decoder(detector: Any) -> None:
    """Replace the mask decoder of a detector by this one, with the same weights."""
    detector.mask_decoder.to(memory_format=_LAYOUT)
    detector.mask_decoder = SharedMaskDecoder(detector.mask_decoder)
