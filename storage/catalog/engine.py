"""DuckDB over the tables of a store; an object store is read through its client, without a DuckDB extension."""

import io
from pathlib import Path
from typing import Any

import duckdb
from fsspec import AbstractFileSystem

from storage.store.layout import StoreLayout
from storage.store.locations import file_system, is_remote, snapshot_of

_SMALL_BYTES = 8 << 20
"""Size up to which a connection keeps tables: workers write small ones, compaction large ones."""


def open_engine(
    store: StoreLayout, file: Path | str = ":memory:", *, read_only: bool = False, **config: Any
) -> duckdb.DuckDBPyConnection:
    """Connect to DuckDB with access to the tables of this store, local or remote; best with a `snapshot` of it."""
    con = duckdb.connect(str(file), read_only=read_only, config=config)
    con.execute("SET enable_progress_bar = false")  # it would write to stdout, which carries results only
    if is_remote(store.root):
        con.register_filesystem(SnapshotFileSystem(file_system(store.root)))
    return con


def snapshot(store: StoreLayout) -> StoreLayout:
    """The present content of the store, for one query: every folder of an object store is listed once."""
    return StoreLayout(snapshot_of(store.root))


class SnapshotFileSystem(AbstractFileSystem):
    """Object store as one connection sees it: each folder is listed once, each small table fetched once.

    The engine requests a file a dozen times while it makes views and answers. The small tables of a folder are fetched
    together, which takes as long as fetching one.
    """

    protocol = "s3"
    cachable = False

    def __init__(self, client: AbstractFileSystem) -> None:
        super().__init__()
        self._client = client
        self._folders: dict[str, dict[str, dict[str, Any]]] = {}
        self._contents: dict[str, bytes] = {}

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """Entries of a folder; none if it does not exist."""
        found = self._folder(self._key(path))
        return list(found.values()) if detail else sorted(found)

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Details of a file or folder.

        Raises:
            FileNotFoundError: If it does not exist.
        """
        key = self._key(path)
        known = self._folder(key.rpartition("/")[0]).get(key)
        if known is None:
            raise FileNotFoundError(path)
        return known

    def modified(self, path: str) -> Any:
        """Time of the last write of a file."""
        return self.info(path)["LastModified"]

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        key = self._key(path)
        if self.info(key)["size"] > _SMALL_BYTES:
            return self._client.open(key, mode, block_size=_SMALL_BYTES)
        if key not in self._contents:
            siblings = self._folder(key.rpartition("/")[0]).values()
            wanted = [item["name"] for item in siblings if item["type"] == "file" and item["size"] <= _SMALL_BYTES]
            found = self._client.cat(wanted)
            self._contents |= {wanted[0]: found} if isinstance(found, bytes) else found
        return io.BytesIO(self._contents[key])

    def _folder(self, key: str) -> dict[str, dict[str, Any]]:
        if key not in self._folders:
            try:
                entries = self._client.ls(key, detail=True)
            except FileNotFoundError:
                entries = []
            self._folders[key] = {item["name"]: item for item in entries if item["name"] != key}
        return self._folders[key]

    def _key(self, path: str) -> str:
        bucket, key, _ = self._client.split_path(path)
        return f"{bucket}/{key}".rstrip("/")
