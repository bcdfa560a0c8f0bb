"""The first attention of the fusion encoder, computed once per slice: no prompt has spoken yet.

Every prompt sends the same tokens of the slice into the first of six layers. Its self-attention keeps what went in and
what came out; the same tokens, bit for bit, get the same answer again.
"""

from typing import Any

import torch
from torch import nn


class RememberedAttention(nn.Module):
    """An attention layer of `transformers` that remembers its last answer."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self._given: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        self._answer: tuple[torch.Tensor, None] | None = None

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
    ) -> tuple[torch.Tensor, None]:
        """As the layer itself; with a mask among the options nothing is remembered."""
        given = (query, key, value)
        if options.get("attention_mask") is not None:
            return self._asked(given, options)
        if self._answer is None or not self._knows(given):
            self._given = self._answer = None  # frees them before new ones are made
            self._answer, self._given = self._asked(given, options), given
        return self._answer

    def _asked(
        self, given: tuple[torch.Tensor, torch.Tensor, torch.Tensor], options: dict[str, Any]
    ) -> tuple[torch.Tensor, None]:
        query, key, value = given
        answer: tuple[torch.Tensor, None] = self.attention(query=query, key=key, value=value, **options)
        return answer[0], None

    def _knows(self, given: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> bool:
        assert self._given is not None
        return all(
            one.shape == known.shape and one.dtype is known.dtype and torch.equal(one, known)
            for one, known in zip(given, self._given, strict=True)
        )


def remember_first_attention(encoder: Any) -> None:
    """Let a fusion encoder of `transformers` compute its first self-attention once per slice."""
    encoder.layers[0].self_attn = RememberedAttention(encoder.layers[0].self_attn)
