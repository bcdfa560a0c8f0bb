"""Matrix products in bf16 between layers in fp32, for the fusion encoder in mixed precision.

Every prompt lets the fusion (DETR) encoder compare all tokens of the slice with all others and pass each through an
MLP: in fp32 more than half of the time of a prompt on a CPU that multiplies bf16 matrices in hardware. The factors of
these products are rounded to bf16, as in the official code under its autocast; norms, residual sums, what is read of
the prompt and all other heads stay in fp32.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from medsam3_core.sam3.blocked_attention import blocked, takes_blocks

HALF = "medsam3_half"
"""Name under which `transformers` finds this attention."""
_FEWEST_TOKENS = 256
"""Below this the conversions are not worth it."""


def half_attention(
    module: nn.Module,
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
        if takes_blocks(query, key):
            return blocked(query, key, value, options.get("scaling")).transpose(1, 2).to(dtype), None
    drawn: torch.Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0]
    return drawn.to(dtype), None


class HalfLinear(nn.Module):
    """A linear layer that holds its weights in bf16, multiplies in bf16, and takes and gives fp32."""

    def __init__(self, exact: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(exact.weight.to(torch.bfloat16), requires_grad=False)
        self.bias = nn.Parameter(exact.bias.to(torch.bfloat16), requires_grad=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Shape (..., in) to (..., out), in the dtype of the rows."""
        return functional.linear(rows.to(torch.bfloat16), self.weight, self.bias).to(rows.dtype)


def use_half_products(encoder: Any) -> None:
    """Let a fusion encoder of `transformers` attend and pass tokens on in bf16."""
    AttentionInterface.register(HALF, half_attention)
    AttentionMaskInterface.register(HALF, sdpa_mask)  # without it texts lose their masks
    encoder.config._attn_implementation = HALF
    for layer in encoder.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, one in list(block.named_children()):
                if isinstance(one, nn.Linear):
                    setattr(block, name, HalfLinear(one))
