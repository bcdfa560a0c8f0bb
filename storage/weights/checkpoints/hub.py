"""`hf://repository[@revision][/file]`: weights from the Hugging Face hub, through its own cache and offline mode."""

from pathlib import Path, PurePosixPath

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from medsam3_core.errors import WeightsError
from storage.weights.checkpoints.tensor_files import PICKLED, SAFETENSORS

SCHEME = "hf://"

_BESIDE = ["*.json", "merges.txt", "vocab.txt"]
"""Configurations, shard indexes and tokenizers: small files that belong to the weights."""


def resolve(location: str) -> Path:
    """Local path of weights; files of an `hf://` location are fetched into the cache.

    `HF_HUB_OFFLINE=1` takes everything from the cache, and `HF_TOKEN` opens gated repositories.

    Raises:
        WeightsError: If the location is malformed, or the repository is missing, gated, unreachable or without weights;
            names the remedy.
    """
    if not location.startswith(SCHEME):
        return Path(location)
    repository, revision, file = parse(location)
    try:
        return _fetch_file(repository, revision, file) if file else _fetch_folder(repository, revision)
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise WeightsError(_advice(location, repository, error)) from error


def parse(location: str) -> tuple[str, str | None, str | None]:
    """Split `hf://owner/name[@revision][/file]`.

    Raises:
        WeightsError: If owner or name is missing.
    """
    parts = location.removeprefix(SCHEME).strip("/").split("/")
    if len(parts) < 2 or not all(parts):
        msg = f"{location!r} is not hf://owner/name[@revision][/file]; for example hf://facebook/sam3/sam3.pt"
        raise WeightsError(msg)
    name, _, revision = parts[1].partition("@")
    return f"{parts[0]}/{name}", revision or None, "/".join(parts[2:]) or None


def _fetch_file(repository: str, revision: str | None, file: str) -> Path:
    """One checkpoint, and the small files beside it."""
    folder = PurePosixPath(file).parent
    beside = _BESIDE if str(folder) == "." else [str(folder / pattern) for pattern in _BESIDE]
    path = _snapshot(repository, revision, [file, *beside]) / file
    if not path.is_file():
        msg = f"{file} is neither in the repository nor in the cache"
        raise EntryNotFoundError(msg)
    return path


def _fetch_folder(repository: str, revision: str | None) -> Path:
    """The safetensors of a repository, or its pickled checkpoints if it has none."""
    folder = _snapshot(repository, revision, [f"*{SAFETENSORS}", *_BESIDE])
    if any(folder.glob(f"*{SAFETENSORS}")):
        return folder
    return _snapshot(repository, revision, [*(f"*{suffix}" for suffix in PICKLED), *_BESIDE])


def _snapshot(repository: str, revision: str | None, patterns: list[str]) -> Path:
    return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))


def _advice(location: str, repository: str, error: Exception) -> str:
    page = f"https://huggingface.co/{repository}"
    if isinstance(error, GatedRepoError):
        return f"{location}: the repository is gated; ask for access at {page}, then set HF_TOKEN or run hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return f"{location}: the repository has no such revision; see {page}"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{location}: no such repository, or it is private or gated and no token was sent; check the name at "
            f"{page}, then set HF_TOKEN or run hf auth login"
        )
    if isinstance(error, LocalEntryNotFoundError):
        return (
            f"{location}: not in the local cache, and the hub is offline or out of reach; fetch it once where there is "
            "a network (HF_HUB_OFFLINE unset), copy the cache here and set HF_HOME, or give a local file"
        )
    if isinstance(error, EntryNotFoundError):
        return f"{location}: no such file in the repository, or offline in its cache; see {page}"
    first = str(error).strip().split("\n")[0]
    return f"{location}: cannot be fetched ({first}); try again, or download it from {page} and give the local file"
