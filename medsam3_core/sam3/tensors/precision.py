"""Precision of each part: tensors are cast by name, without autocast, which leaks.

In mixed precision the heads run in fp32, except attention and MLPs of the fusion encoder (`half_products`) and the
convolutions of the neck's maps (`shared_mask_decoder`). Mean mask IoU with fp32 over the golden cases, whose masks are
untrained: 0.983, and 0.984 with all heads in fp32.
"""

from dataclasses import dataclass

import torch

from medsam3_core.sam3.tensors.torch_internals import has_amx, has_avx512_bf16
from medsam3_core.settings.inference import Dtype


@dataclass(frozen=True, slots=True)
class Precision:
    """Dtype of the encoders (trunk, necks, text) and of the heads (geometry, DETR, masks, tracker)."""

    name: Dtype
    encoder: torch.dtype
    heads: torch.dtype


_PRECISIONS = {
    Dtype.FP32: Precision(Dtype.FP32, torch.float32, torch.float32),
    Dtype.MIXED: Precision(Dtype.MIXED, torch.bfloat16, torch.float32),
    Dtype.BF16: Precision(Dtype.BF16, torch.bfloat16, torch.bfloat16),
}


def precision_for(dtype: Dtype, device: str) -> Precision:
    """Precision of a setting; `auto` is mixed if bf16 is fast on the device, else fp32."""
    if dtype is Dtype.AUTO:
        dtype = Dtype.MIXED if bf16_is_fast(device) else Dtype.FP32
    return _PRECISIONS[dtype]


def without_autocast(device: str) -> torch.autocast:
    """Context without the caller's autocast, under which `transformers` fails on a CPU."""
    return torch.autocast(torch.device(device).type, enabled=False)


def bf16_is_fast(device: str) -> bool:
    """True if the device multiplies bf16 matrices in hardware (CUDA since Ampere; AMX or AVX512-BF16)."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return has_amx() or has_avx512_bf16()
