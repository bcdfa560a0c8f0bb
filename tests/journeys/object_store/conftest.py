"""Fixtures of object stores, all real: an S3 server process on loopback, buckets in it, the usual credentials chain.

| fixture | what it is |
|---|---|
| `s3_server` | one server for the session; the environment that leads a process to it |
| `credentials` | that environment, in this process |
| `bucket` | an empty bucket of its own for every test: `s3://...` |
| `remote_store` | an empty store in that bucket |
"""

import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.store.layout import StoreLayout, open_store
from storage.store.locations import file_system, location
from tests.server_processes import free_port, server_process


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    url = f"http://127.0.0.1:{port}"
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    with server_process([sys.executable, "-c", code], url, folder / "server.log", end=signal.SIGKILL):
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "XDG_CACHE_HOME": str(folder / "cache"),
        }


@pytest.fixture(scope="module", autouse=True)
def credentials(s3_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.items():
            patch.setenv(name, value)
        patch.setenv("MEDSAM3_KEY_FILE", str(tmp_path_factory.mktemp("keys") / "patients.key"))
        yield


def new_bucket() -> str:
    """An empty bucket of its own: `s3://...`."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    file_system(location(f"s3://{name}")).mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def bucket() -> str:
    return new_bucket()


@pytest.fixture
def remote_store(bucket: str) -> StoreLayout:
    return open_store(f"{bucket}/store")


def upload_tree(folder: Path, target: str) -> str:
    """Copy a folder below a prefix; the prefix."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        (location(target) / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())
    return target
