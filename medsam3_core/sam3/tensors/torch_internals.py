"""Parts of torch that it does not promise to keep; all that we use of them enters here.

`tests/core/sam3/test_internals.py` fails when one of them changes.
"""

from collections.abc import Callable

import torch


def has_avx512_bf16() -> bool:
    """Whether the CPU multiplies vectors of bf16."""
    return _capability("avx512_bf16", lambda: torch.cpu._is_avx512_bf16_supported())


def has_amx() -> bool:
    """Whether the CPU multiplies whole tiles of bf16: with it torch's own attention is fast in bf16, else it is not."""
    return _capability("amx_bf16", lambda: torch.cpu._is_amx_tile_supported())


def _capability(name: str, before_2_12: Callable[[], bool]) -> bool:
    if not hasattr(torch.cpu, "get_capabilities"):
        return bool(before_2_12())
    return bool(torch.cpu.get_capabilities().get(name))
