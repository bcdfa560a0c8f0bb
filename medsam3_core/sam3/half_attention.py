"""Attention in bf16 between layers in fp32, for the fusion encoder in mixed precision.

Every prompt lets the fusion (DETR) encoder compare all tokens of the slice with all others: in fp32 almost half of the
time of a prompt on a CPU that multiplies bf16 matrices in hardware. Queries, keys and values are rounded to bf16 for
that one product; weights, norms, residual sums and all other heads stay in fp32.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

HALF = "medsam3_half"
"""Name under which `transformers` finds this attention."""
_FEWEST_TOKENS = 256
"""Below this the conversions are not worth it."""


def half_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of many tokens without a mask in bf16; anything else as it comes.

    Args:
        module: The attention layer, which `transformers` hands in.
        query: Shape (batch, heads, tokens, d).
        key: Shape (batch, heads, tokens, d).
        value: Shape (batch, heads, tokens, d).
        attention_mask: None for the bf16 path.
        **options: What else `transformers` hands to an attention.

    Returns:
        Shape (batch, tokens, heads, d) in the dtype of the query, and None for the weights.
    """
    dtype = query.dtype
    if attention_mask is None and min(query.shape[2], key.shape[2]) >= _FEWEST_TOKENS:
        query, key, value = (one.to(torch.bfloat16) for one in (query, key, value))
    drawn: torch.Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0]
    return drawn.to(dtype), None


def use_half_attention(encoder: Any) -> None:
    """Let a fusion encoder of `transformers` use this attention."""
    AttentionInterface.register(HALF, half_attention)
    AttentionMaskInterface.register(HALF, sdpa_mask)  # without it texts lose their masks
    encoder.config._attn_implementation = HALF
