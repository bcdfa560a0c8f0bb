"""LoRA: small adapters beside the linear layers, trained in place of the weights; merged for inference."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from medsam3_core.errors import UsageError

TARGETS = r".*\.(q_proj|k_proj|v_proj|o_proj|out_proj|fc1|fc2)"
"""Attention and feed-forward layers of trunk, text encoder and concept head."""
_ADAPTER, _BASE, _UPDATE = "default", ".base_layer.", ".lora_"


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """Size of the adapters.

    Attributes:
        rank: Rank of each update.
        alpha: Updates are scaled by alpha / rank.
        dropout: Dropout before each adapter.
        targets: Regular expression over the names of the layers.
        also: Parts of names of parameters that are fully trained too (output heads).
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: str = TARGETS
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            msg = f"LoRA needs rank >= 1, alpha > 0 and dropout in [0, 1); got {self}"
            raise UsageError(msg)

    def config(self, base: str | None = None) -> LoraConfig:
        """The plan as a configuration of peft."""
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,
            base_model_name_or_path=base,
        )


def add_adapters(owner: nn.Module, detector: nn.Module, plan: LoraPlan) -> None:
    """Add adapters to the layers of the detector and freeze other parameters, except those in `also`.

    `owner` is the module with all parameters, the detector included.

    Raises:
        UsageError: If no layer or no parameter matches a name of the plan.
    """
    try:
        inject_adapter_in_model(plan.config(), detector, adapter_name=_ADAPTER)
    except ValueError as error:
        msg = f"lora.targets {plan.targets!r} matches no layer of the detector ({str(error).splitlines()[0][:120]})"
        raise UsageError(msg) from None
    for wanted in plan.also:
        if not any(wanted in name for name, _ in owner.named_parameters()):
            msg = f"lora.also {wanted!r} matches no parameter"
            raise UsageError(msg)
    for name, parameter in owner.named_parameters():
        parameter.requires_grad_(_UPDATE in name or any(wanted in name for wanted in plan.also))


def merged_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """State dict of a module with merged adapters, under the original names."""
    updates: dict[str, torch.Tensor] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, LoraLayer):
            updates[f"{name}.weight"] = cast(Any, layer).get_delta_weight(_ADAPTER)
    merged = {}
    for name, tensor in module.state_dict().items():
        if _UPDATE not in name:
            plain = name.replace(_BASE, ".")
            merged[plain] = tensor + updates[plain].detach() if plain in updates else tensor
    return merged
