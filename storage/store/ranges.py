"""Ranged reads of an object store, for scans of file headers."""

from pathlib import Path
from typing import Any

from fsspec.asyn import sync

from storage.store.locations import file_system, object_key


def read_object_range(path: Path, start: int, length: int) -> tuple[bytes, int]:
    """Bytes from `start`, fewer if the object ends earlier, and the size of the whole object; one request.

    Raises:
        OSError: If it does not exist or cannot be read.
    """
    client = file_system(path)
    bucket, key, _ = client.split_path(object_key(path))
    try:
        asked = f"bytes={start}-{start + length - 1}"
        answer = client.call_s3("get_object", Bucket=bucket, Key=key, Range=asked)
        data = sync(client.loop, _read, answer["Body"])
    except FileNotFoundError:
        raise
    except OSError:  # also for an empty object, or a range beyond the end
        size = int(client.info(object_key(path))["size"])
        if start < size:
            raise
        return b"", size
    return bytes(data), int(answer["ContentRange"].rpartition("/")[2])


async def _read(body: Any) -> Any:
    async with body:
        return await body.read()
