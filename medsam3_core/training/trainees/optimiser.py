"""Optimiser and schedule of the official recipe: AdamW, a rate per part, layer-wise decay in the trunk."""

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import nn

from medsam3_core.sam3.network.small import POSITIONS, TABLES

_BLOCK = re.compile(r"vision_encoder\.backbone\.layers\.(\d+)\.")
_TRUNK, _TEXT = "vision_encoder.backbone.", "text_encoder."
_FIRST = ("embeddings.patch_embeddings", "backbone.layer_norm.")
"""Layers below the first block of the trunk."""


class Schedule(StrEnum):
    """Course of the rate over the steps, after a linear warm-up."""

    INVERSE_SQRT = "inverse-sqrt"
    """Official: falls with the square root of the step, linear cool-down at the end."""
    CONSTANT = "constant"
    """Constant, linear cool-down at the end."""
    COSINE = "cosine"
    """Half a cosine to zero."""


@dataclass(frozen=True, slots=True)
class OptimiserPlan:
    """AdamW and its schedule.

    Attributes:
        rate: Learning rate of the heads.
        trunk: Rate of the trunk as a share of `rate`; officially 0.3.
        text: Rate of the text encoder as a share of `rate`; officially 0.06.
        layer_decay: Factor from one trunk layer to the one below; officially 0.9.
        weight_decay: Weight decay of matrices; biases and norms have none.
        clip: Maximum norm of the gradient.
        schedule: Course of the rate.
        warmup: Steps of the warm-up.
        cooldown: Share of all steps.
        timescale: Steps until the inverse square root starts to fall.
        beta2: Decay of the second moment.
        fan_in: Weights with more inputs than this learn slower in proportion (Yang et al., "Tensor Programs V",
            NeurIPS 2021): AdamW moves all inputs of a sum at once, and a 3 x 3 convolution of 64 channels sums 576.
            0 gives all weights one rate, as in the official recipe.
    """

    rate: float = 8e-4
    trunk: float = 0.3
    text: float = 0.06
    layer_decay: float = 0.9
    weight_decay: float = 0.1
    clip: float = 0.1
    schedule: Schedule = Schedule.INVERSE_SQRT
    warmup: int = 20
    cooldown: float = 0.2
    timescale: int = 20
    beta2: float = 0.999
    fan_in: int = 0


def parameter_groups(model: nn.Module, plan: OptimiserPlan, layers: int) -> list[dict[str, Any]]:
    """Group trainable parameters by rate and weight decay, in a stable order; `layers` counts blocks of the trunk."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if parameter.ndim <= 1 or "norm" in name else plan.weight_decay
            rate = rate_of(name, plan, layers) * fan_in_factor(name, parameter, plan)
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in groups.items()]


def rate_of(name: str, plan: OptimiserPlan, layers: int) -> float:
    """Learning rate of a parameter by its name."""
    if _TEXT in name:
        return plan.rate * plan.text
    if _TRUNK not in name:
        return plan.rate
    rate = plan.rate * plan.trunk
    if name.endswith(POSITIONS):
        return rate
    block = _BLOCK.search(name)
    depth = int(block[1]) + 1 if block else 0 if any(part in name for part in _FIRST) else layers + 1
    return float(rate * plan.layer_decay ** (layers + 1 - depth))


def fan_in_factor(name: str, parameter: torch.Tensor, plan: OptimiserPlan) -> float:
    """Factor of the rate of a weight with many inputs; 1 for lookup tables."""
    if not plan.fan_in or parameter.ndim < 2 or any(table in name for table in (*TABLES, POSITIONS)):
        return 1.0
    return min(1.0, plan.fan_in / parameter[0].numel())


def rate_factor(step: int, plan: OptimiserPlan, steps: int) -> float:
    """Share of the full rate at a step, in [0, 1]."""
    warm = min(1.0, (step + 1) / max(1, plan.warmup))
    if plan.schedule is Schedule.COSINE:
        done = min(1.0, max(0, step - plan.warmup) / max(1, steps - plan.warmup))
        return warm * 0.5 * (1 + math.cos(math.pi * done))
    cooling = max(1, round(plan.cooldown * steps))
    factor = warm * min(1.0, max(0, steps - step) / cooling)
    if plan.schedule is Schedule.INVERSE_SQRT:
        factor *= math.sqrt(plan.timescale / max(plan.timescale, step))
    return factor
