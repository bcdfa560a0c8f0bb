"""Matrix products in bf16 between layers in fp32, for the fusion encoder in mixed precision.

Attention and MLPs of the fusion (DETR) encoder are most of the arithmetic of a prompt. Their factors are rounded to
bf16, as in the official code under autocast; norms, residual sums and all other heads stay in fp32.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from medsam3_core.sam3.fast.blocked_attention import attend


class HalfAttention(nn.Module):
    """An attention layer of `transformers` that multiplies in bf16; inputs and outputs are fp32."""

    def __init__(self, exact: Any) -> None:
        super().__init__()
        self._heads, self._width = exact.num_attention_heads, exact.head_dim
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            getattr(exact, f"{name}_proj").to(torch.bfloat16) for name in "qkvo"
        )

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **_options: Any,
    ) -> tuple[torch.Tensor, None]:
        """Attend with a query of shape (n, tokens, c) to keys and values of shape (n, others, c).

        `attention_mask` is True for keys that count and broadcasts to (n, heads, tokens, others). The result has shape
        and dtype of the query, with None for the weights. Other options have no effect in inference.
        """
        asked = self._split(self.q_proj(query.to(torch.bfloat16)))
        keys = self._split(self.k_proj(key.to(torch.bfloat16)))
        values = self._split(self.v_proj(value.to(torch.bfloat16)))
        if attention_mask is None:
            attended = attend(asked, keys, values)
        else:
            attended = functional.scaled_dot_product_attention(asked, keys, values, attn_mask=attention_mask)
        drawn: torch.Tensor = self.o_proj(attended.transpose(1, 2).flatten(2))
        return drawn.to(query.dtype), None

    def _split(self, tokens: torch.Tensor) -> torch.Tensor:
        """Shape (n, tokens, c) to (n, heads, tokens, d)."""
        split: torch.Tensor = tokens.unflatten(-1, (self._heads, self._width))
        return split.transpose(1, 2)


class HalfMlp(nn.Module):
    """An MLP of `transformers` that multiplies in bf16; inputs and outputs are fp32."""

    def __init__(self, exact: Any) -> None:
        super().__init__()
        self.fc1, self.fc2 = exact.fc1.to(torch.bfloat16), exact.fc2.to(torch.bfloat16)
        self.activation_fn = exact.activation_fn

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Shape (..., c) to (..., c), in the dtype of the rows."""
        drawn: torch.Tensor = self.fc2(self.activation_fn(self.fc1(rows.to(torch.bfloat16))))
        return drawn.to(rows.dtype)


def use_half_products(encoder: Any) -> None:
    """Replace attention and MLPs of a fusion encoder of `transformers` by bf16 versions; their weights become bf16."""
    for layer in encoder.layers:
        layer.self_attn, layer.cross_attn = HalfAttention(layer.self_attn), HalfAttention(layer.cross_attn)
        layer.mlp = HalfMlp(layer.mlp)
