"""Some bytes of an object and its size, in one request: what header scans are made of."""

from pathlib import Path
from typing import Any

from fsspec.asyn import sync

from storage.store.locations import file_system, object_key


def read_object_range(path: Path, start: int, length: int) -> tuple[bytes, int]:
    """Bytes from `start`, fewer where the object ends before, and the size of the whole object.

    Raises:
        OSError: If it is not there or cannot be read.
    """
    client = file_system(path)
    bucket, key, _ = client.split_path(object_key(path))
    try:
        data, total = sync(client.loop, _ranged, client, bucket, key, start, start + length - 1)
    except FileNotFoundError:
        raise
    except OSError:  # no range of an empty object, or behind its end, can be satisfied
        size = int(client.info(object_key(path))["size"])
        if start < size:
            raise
        return b"", size
    return bytes(data), int(total)


async def _ranged(client: Any, bucket: str, key: str, first: int, last: int) -> tuple[bytes, int]:
    answer = await client._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={first}-{last}")
    async with answer["Body"] as body:
        data = await body.read()
    return data, int(answer["ContentRange"].rpartition("/")[2])
