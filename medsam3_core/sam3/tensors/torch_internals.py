"""Private parts of torch; all our uses of them are here.

`tests/core/sam3/test_internals.py` fails when one of them changes.
"""

from collections.abc import Callable

import torch


def has_avx512_bf16() -> bool:
    """True if the CPU multiplies vectors of bf16."""
    return _capability("avx512_bf16", lambda: torch.cpu._is_avx512_bf16_supported())


def has_amx() -> bool:
    """True if the CPU multiplies tiles of bf16; then torch's attention is fast in bf16."""
    return _capability("amx_bf16", lambda: torch.cpu._is_amx_tile_supported())


def _capability(name: str, before_2_12: Callable[[], bool]) -> bool:
    if not hasattr(torch.cpu, "get_capabilities"):
        return bool(before_2_12())
    return bool(torch.cpu.get_capabilities().get(name))
