"""LoRA: small adapters beside the linear layers, trained in place of the weights; merged before the model answers."""

from dataclasses import dataclass

from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from medsam3_core.errors import UsageError

TARGETS = r".*\.(q_proj|k_proj|v_proj|o_proj|out_proj|fc1|fc2)"
"""Attention and feed-forward layers of trunk, text encoder and concept head."""
_MERGED = ".base_layer."


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """Size of the adapters.

    Attributes:
        rank: Rank of each update.
        alpha: Updates are scaled by alpha / rank.
        dropout: Dropout before each adapter.
        targets: Regular expression over the names of the layers.
        also: Parts of names of parameters that are trained whole besides (heads that answer).
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = TARGETS
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            msg = f"LoRA takes rank >= 1, alpha > 0 and dropout in [0, 1); got {self}"
            raise UsageError(msg)
