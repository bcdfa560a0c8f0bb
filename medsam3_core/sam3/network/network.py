"""Build the modules of SAM3 from tensors: empty modules first, then one copy in the wanted precision."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel, Sam3Model

from medsam3_core.errors import WeightsError
from medsam3_core.sam3.fast.half_products import use_half_products
from medsam3_core.sam3.fast.remembered_attention import remember_first_attention
from medsam3_core.sam3.fast.rotary_attention import use_rotary_attention
from medsam3_core.sam3.fast.shared_mask_decoder import share_mask_decoder
from medsam3_core.sam3.keys.layouts import Part
from medsam3_core.sam3.keys.match import MatchReport, Shapes, match_tensors
from medsam3_core.sam3.network.architecture import Architecture
from medsam3_core.sam3.network.propagation_tracker import PropagationTracker
from medsam3_core.sam3.tensors.precision import Precision
from medsam3_core.sam3.tensors.transformers_internals import Sam3VisionNeck, mark_as_loaded
from medsam3_core.settings.inference import Dtype

_ENCODERS = ("vision_encoder.", "text_encoder.")
TRACKER_DTYPE = torch.float32
"""The interactive head always runs in fp32: bf16 cannot separate neighbouring pixel coordinates above 256."""
_FLOATS = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})


@dataclass(frozen=True, eq=False)
class Sam3Weights:
    """Tensors that match an architecture one to one; they may be memory-mapped.

    Attributes:
        architecture: Their architecture.
        parts: Tensors under their `transformers` names, per part.
        report: Match report of the keys of the file.
        source: Origin, for messages.
        vocabulary: Folder with a tokenizer of these weights, if there is one.
        reread: Reads the same weights again, so that callers can free the tensors after building a network.
    """

    architecture: Architecture
    parts: Mapping[Part, Mapping[str, torch.Tensor]]
    report: MatchReport
    source: str = "weights"
    vocabulary: str | None = None
    reread: "Callable[[], Sam3Weights] | None" = None

    @property
    def interactive(self) -> bool:
        """True if the weights have the interactive head."""
        return Part.TRACKER in self.parts

    @property
    def propagates(self) -> bool:
        """True if they can follow an object through a volume, with a trained memory."""
        return self.interactive and self.architecture.propagates

    def without_tensors(self) -> "Sam3Weights":
        """Copy without tensors, since a memory-mapped file counts as used memory."""
        return replace(self, parts={part: {} for part in self.parts})


@dataclass(frozen=True, eq=False)
class Sam3Network:
    """The modules of SAM3 on one device in one precision, ready for inference."""

    detector: Sam3Model
    tracker: PropagationTracker | None
    tracker_neck: Sam3VisionNeck | None
    architecture: Architecture
    precision: Precision
    device: torch.device


def match_weights(
    tensors: Mapping[str, torch.Tensor], architecture: Architecture, source: str, vocabulary: str | None = None
) -> Sam3Weights:
    """Match a state dict of any layout with an architecture.

    Raises:
        WeightsMismatchError: If the match is not one to one; names the first ten keys.
        WeightsError: If the state dict is not of SAM3, or a tensor is not floating-point.
    """
    matched = match_tensors(tensors, expected_shapes(architecture))
    matched.report.require_complete(source)
    for named in matched.parts.values():
        for name, tensor in named.items():
            _require_float(name, tensor, source)
    return Sam3Weights(architecture, matched.parts, matched.report, source, vocabulary)


def require_finite(weights: Sam3Weights) -> None:
    """Check every value, for the registration of weights; building a network checks too.

    Raises:
        WeightsError: If a tensor holds NaN or infinite values; names it.
    """
    for named in weights.parts.values():
        for name, tensor in named.items():
            _require_finite_tensor(name, tensor, weights.source)


def expected_shapes(architecture: Architecture) -> Shapes:
    """Shape of every tensor of an architecture; allocates none."""
    return {
        part: {name: tensor.shape for name, tensor in module.state_dict().items()}
        for part, module in _empty_modules(architecture).items()
    }


def build_network(
    weights: Sam3Weights, precision: Precision, device: str, resolution: int = 0, *, to_learn: bool = False
) -> Sam3Network:
    """Put weights into modules: one copy, in the wanted precision, on the device.

    Args:
        weights: The weights.
        precision: Precision of encoders and heads.
        device: Target device.
        resolution: Side of the input; 0 for that of the weights.
        to_learn: Keep the modules of `transformers`, for training; the faster ones do not support gradients.

    Raises:
        WeightsError: If a tensor holds NaN or infinite values.
        UsageError: If the weights do not accept this resolution.
    """
    architecture = weights.architecture.at(resolution)
    target = torch.device(device)
    modules = _empty_modules(architecture)
    for part, module in modules.items():
        tensors = {
            name: _cast(name, tensor, _dtype_of(part, name, precision), target, weights.source)
            for name, tensor in weights.parts[part].items()
        }
        module.load_state_dict(tensors, assign=True, strict=True)
        _fill_computed_buffers(module, target)
        module.requires_grad_(requires_grad=False).eval()
    network = Sam3Network(
        cast(Sam3Model, modules[Part.DETECTOR]),
        cast(PropagationTracker | None, modules.get(Part.TRACKER)),
        cast(Sam3VisionNeck | None, modules.get(Part.TRACKER_NECK)),
        architecture,
        precision,
        target,
    )
    if not to_learn:
        _make_faster(network)
    return network


def _make_faster(network: Sam3Network) -> None:
    """Replace modules by faster ones, equal within the rounding of the precision."""
    detector = network.detector
    for neck in (detector.vision_encoder.neck, network.tracker_neck):
        if neck is not None:
            neck.to(memory_format=torch.channels_last)  # saves a quarter of its time on a CPU
    share_mask_decoder(detector)
    if network.precision.name is Dtype.MIXED:
        use_half_products(detector.detr_encoder)
    if network.device.type == "cpu":  # the comparison would stall an accelerator
        remember_first_attention(detector.detr_encoder)


def _empty_modules(architecture: Architecture) -> dict[Part, nn.Module]:
    detector, tracker = copy.deepcopy(architecture.detector), copy.deepcopy(architecture.tracker)
    with torch.device("meta"):
        model = Sam3Model(detector)
        use_rotary_attention(model.vision_encoder.backbone)
        modules: dict[Part, nn.Module] = {Part.DETECTOR: model}
        if tracker is not None:
            modules[Part.TRACKER] = PropagationTracker(tracker)
            modules[Part.TRACKER_NECK] = Sam3VisionNeck(tracker.vision_config)
    return modules


def _dtype_of(part: Part, name: str, precision: Precision) -> torch.dtype:
    if part is Part.TRACKER:
        return TRACKER_DTYPE
    in_encoder = part is Part.TRACKER_NECK or (part is Part.DETECTOR and name.startswith(_ENCODERS))
    return precision.encoder if in_encoder else precision.heads


def _cast(name: str, tensor: torch.Tensor, dtype: torch.dtype, device: torch.device, source: str) -> torch.Tensor:
    """Copy, so that a memory-mapped file can be closed."""
    copied = tensor.to(device=device, dtype=dtype, copy=True).contiguous()
    _require_finite_tensor(name, copied, source)
    return copied


def _require_finite_tensor(name: str, tensor: torch.Tensor, source: str) -> None:
    if tensor.numel() and not torch.isfinite(torch.stack(torch.aminmax(tensor))).all():
        msg = f"{source}: tensor {name} holds NaN or infinite values; the file is damaged or its training diverged"
        raise WeightsError(msg)


def _require_float(name: str, tensor: torch.Tensor, source: str) -> None:
    if tensor.dtype not in _FLOATS:
        msg = (
            f"{source}: tensor {name} has type {str(tensor.dtype).removeprefix('torch.')}; only float32, float16 and "
            "bfloat16 weights are loaded: convert quantised weights back first"
        )
        raise WeightsError(msg)


def _fill_computed_buffers(module: nn.Module, device: torch.device) -> None:
    """Compute the buffers that no file holds: rotary tables and position numbers, in fp32."""
    for submodule in module.modules():
        for name, buffer in submodule.named_buffers(recurse=False):
            if buffer.is_meta:
                submodule.register_buffer(name, torch.empty_like(buffer, device="cpu"), persistent=False)
    for tensor in module.state_dict(keep_vars=True).values():
        mark_as_loaded(tensor)
    if isinstance(module, PreTrainedModel):
        module.initialize_weights()
    for submodule in module.modules():
        for name, buffer in submodule.named_buffers(recurse=False):
            if buffer.device != device:
                setattr(submodule, name, buffer.to(device))
