"""The seeded random weights of the golden files, drawn again from their seeds.

`tensors.csv` lists every tensor of `released/sam3.pt` in the order of that file: its shape, and what it was drawn with.
`weights.npz` holds the few that were not drawn, and the values that fp32 arithmetic rounded to another bf16 neighbour.
"""

import csv
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
DIGEST = "02990387ba86ff82a80b207dba45a33cec199e784f964ae1ca80660377e3e29c"
"""SHA-256 of the bytes of all tensors of the original `released/sam3.pt`, in the order of the file."""
DRAWN_AT_ONCE = 16
"""torch draws normal values in blocks of 16, and fewer one by one."""


def standard_normals(count: int, generator: torch.Generator) -> torch.Tensor:
    """What `torch.randn(count)` draws on a CPU, computed in fp64 so that every machine gets the same values."""
    if count < DRAWN_AT_ONCE:
        return torch.randn(count, dtype=torch.float64, generator=generator)
    values = _box_muller(torch.rand(count, generator=generator)[: count - count % DRAWN_AT_ONCE])
    if count % DRAWN_AT_ONCE:  # the last 16 are drawn anew
        last = _box_muller(torch.rand(DRAWN_AT_ONCE, generator=generator))
        values = torch.cat([values[: count - DRAWN_AT_ONCE], last])
    return values


def _box_muller(uniform: torch.Tensor) -> torch.Tensor:
    """Normal values from uniform ones in [0, 1), shape (n,), n a multiple of 16."""
    first, second = uniform.double().view(-1, 2, 8).unbind(1)
    radius, angle = (-2 * (1 - first).log()).sqrt(), 2 * math.pi * second
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1).flatten()


def drawn_tensors() -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor as drawn, rounded to bf16; those that were not drawn come from `weights.npz`."""
    generators = {seed: torch.Generator().manual_seed(seed) for seed in (11, 12, 77)}
    with np.load(HERE / "weights.npz") as stored, (HERE / "tensors.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if not row["seed"]:
                values = torch.from_numpy(stored[row["stored_as"] or row["name"]])
                yield row["name"], values if values.is_complex() else values.view(torch.bfloat16)
                continue
            generator, shape = generators[int(row["seed"])], [int(side) for side in row["shape"].split()]
            standard_normals(int(row["skipped"]), generator)
            values = standard_normals(math.prod(shape), generator) * float(row["std"]) + float(row["mean"])
            yield row["name"], values.float().bfloat16().view(shape)


@cache
def released_tensors() -> dict[str, torch.Tensor]:
    """All tensors of `released/sam3.pt` in their order: bf16, but for the complex rotary buffers.

    Raises:
        RuntimeError: If a value differs from the original, because this torch draws other numbers.
    """
    tensors = dict(drawn_tensors())
    with np.load(HERE / "weights.npz") as stored:
        for name, place, value in zip(stored["names"], stored["places"], stored["values"], strict=True):
            tensors[name].view(torch.int16).view(-1)[place] = value
    if (digest := digest_of(tensors)) != DIGEST:
        msg = f"torch {torch.__version__} draws other weights than the golden ones: sha256 {digest}, not {DIGEST}"
        raise RuntimeError(msg)
    return tensors


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors.values():
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def bare_tensors() -> dict[str, torch.Tensor]:
    """The detector alone, under the names of `bare/checkpoint.safetensors`."""
    return {
        name.removeprefix("detector."): tensor
        for name, tensor in released_tensors().items()
        if name.startswith("detector.") and "sam2_convs" not in name and not tensor.is_complex()
    }


@cache
def checkpoints() -> dict[str, Path]:
    """The checkpoint of each layout with its configuration beside it, written once into `build/` and kept."""
    folder = HERE.parents[1] / "build" / f"golden-{DIGEST[:16]}"
    if not folder.is_dir():
        folder.parent.mkdir(exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent))
        shutil.copytree(HERE / "released", draft / "released")
        torch.save({"model": released_tensors()}, draft / "released" / "sam3.pt")
        (draft / "bare").mkdir()
        shutil.copy(HERE / "released" / "config.json", draft / "bare")
        save_file(bare_tensors(), draft / "bare" / "checkpoint.safetensors")
        try:
            os.rename(draft, folder)
        except OSError:  # another test process was first
            shutil.rmtree(draft)
    return {"bare": folder / "bare" / "checkpoint.safetensors", "released": folder / "released" / "sam3.pt"}
