"""Zarr arrays as we write them: codecs, chunks, shards, levels; folders and single-file zips (RFC-9).

Measured on CT: blosc(zstd, 1, shuffle) writes 2.5 times faster than zarr's default and is 15 % smaller; label maps
compress best with plain zstd. One chunk is one slice. One shard is a volume of up to 256 slices, written in one go.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.core.buffer import Buffer, cpu
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ZipStore

from medsam3_core.errors import DamagedFileError
from storage.store.atomic import replacing
from storage.store.locations import file_system, is_remote, object_key
from storage.store.ngff import NGFF_VERSION

MAX_UNSCALED_SIDE = 256
MAX_SLICES_PER_SHARD = 256


def level_factors(shape_zyx: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Voxels of level 0 that one voxel of each level spans; sides above 256 are halved until none is left."""
    factors = [(1, 1, 1)]
    shape = shape_zyx
    while max(shape) > MAX_UNSCALED_SIDE:
        step = tuple(2 if side > MAX_UNSCALED_SIDE else 1 for side in shape)
        z, y, x = (old * new for old, new in zip(factors[-1], step, strict=True))
        factors.append((z, y, x))
        depth, height, width = (-(-side // new) for side, new in zip(shape, step, strict=True))
        shape = (depth, height, width)
    return factors


def write_image_levels(group: zarr.Group, voxels: NDArray[Any], factors: Sequence[tuple[int, int, int]]) -> None:
    """Write an image (c,) z, y, x and its levels of block means."""
    level = voxels
    for index, factor in enumerate(factors):
        if index:
            level = _block_mean(level, _step(factors[index - 1], factor))
        _write(group, str(index), level, BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"))


def write_label_levels(group: zarr.Group, labels: NDArray[Any], factors: Sequence[tuple[int, int, int]]) -> None:
    """Write a label image z, y, x and its levels of every n-th voxel."""
    for index, (z, y, x) in enumerate(factors):
        _write(group, str(index), labels[::z, ::y, ::x], ZstdCodec(level=3))


def write_zip(content: Mapping[str, Buffer], target: Path) -> None:
    """Write the content of a memory store as one `.ozx`: stored, not compressed again, root metadata first."""
    keys = sorted(content, key=lambda key: (key.count("/") if key.endswith("zarr.json") else 99, key))
    with replacing(target) as scratch, zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for key in keys:
            archive.writestr(zipfile.ZipInfo(key), content[key].to_bytes())
        archive.comment = json.dumps({"ome": {"version": NGFF_VERSION}}).encode()


def open_group(path: Path) -> zarr.Group:
    """Open a finished `.ozx` file or `.ome.zarr` folder for reading.

    Raises:
        DamagedFileError: If it is absent or damaged; names it.
    """
    try:
        return zarr.open_group(_store_of(path), mode="r")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zarr.errors.BaseZarrError) as error:
        msg = f"cannot open {path}: {error}; ingest or segment the case again"
        raise DamagedFileError(msg) from error


def _store_of(path: Path) -> Store:
    """Of an object store, a zip is fetched whole in one request; a folder is read chunk by chunk."""
    if not is_remote(path):
        return ZipStore(path, mode="r") if path.suffix == ".ozx" else LocalStore(path, read_only=True)
    if path.suffix == ".ozx":
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            content: dict[str, Buffer] = {
                name: cpu.Buffer.from_bytes(archive.read(name)) for name in archive.namelist()
            }
        return MemoryStore(content, read_only=True)
    client = file_system(path)
    parallel = type(client)(*client.storage_args, **client.storage_options | {"asynchronous": True})
    return FsspecStore(parallel, path=object_key(path), read_only=True)


def _write(group: zarr.Group, name: str, voxels: NDArray[Any], compressor: Any) -> None:
    lead, (depth, height, width) = voxels.shape[:-3], voxels.shape[-3:]
    chunks = (*lead, 1, height, width)
    shards = (*lead, min(depth, MAX_SLICES_PER_SHARD), height, width) if depth > 1 else None
    array = group.create_array(
        name, shape=voxels.shape, dtype=voxels.dtype, chunks=chunks, shards=shards, compressors=[compressor],
        fill_value=0, dimension_names=[*("c" for _ in lead), "z", "y", "x"],
    )  # fmt: skip
    array[...] = voxels


def _step(coarse: tuple[int, int, int], fine: tuple[int, int, int]) -> tuple[int, int, int]:
    z, y, x = (new // old for old, new in zip(coarse, fine, strict=True))
    return (z, y, x)


def _block_mean(voxels: NDArray[Any], step: tuple[int, int, int]) -> NDArray[Any]:
    """Mean over blocks of `step` along z, y, x; the last block of an odd side repeats its edge."""
    padding = [(0, 0)] * (voxels.ndim - 3) + [
        (0, -side % factor) for side, factor in zip(voxels.shape[-3:], step, strict=True)
    ]
    padded = np.pad(voxels, padding, mode="edge")
    total: NDArray[Any] = np.zeros(
        [*padded.shape[:-3], *(s // f for s, f in zip(padded.shape[-3:], step, strict=True))], np.float32
    )
    for z, y, x in np.ndindex(step):
        total += padded[..., z :: step[0], y :: step[1], x :: step[2]]
    total /= step[0] * step[1] * step[2]
    return (np.rint(total) if np.issubdtype(voxels.dtype, np.integer) else total).astype(voxels.dtype)
