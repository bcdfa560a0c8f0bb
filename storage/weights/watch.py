"""Watch the files of weights for new versions; the last observation is kept in `weights/watch.json`.

A file counts as written when its size, time and inode have not changed for a while and no process of this machine has
it open for writing. Files that do not load are reported once and never registered. Files are hashed and loaded only
when the file system shows a change.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from medsam3_core.digests import digest_json
from medsam3_core.errors import WeightsError
from storage.store.atomic import read_json, write_json
from storage.store.layout import StoreLayout
from storage.weights.registry import inspect_weights, register_weights, registered_weights
from storage.weights.weights import HUB, Weights

_PROCESSES = Path("/proc")


class Sight(StrEnum):
    """Result of one look at weights."""

    UNCHANGED = "unchanged"
    WRITING = "still being written"
    CHANGED = "changed"
    GONE = "gone"
    UNLOADABLE = "cannot be loaded"


@dataclass(frozen=True, slots=True)
class Seen:
    """Last observation of one name.

    Attributes:
        fingerprint: Fingerprint of the files last registered or refused; empty before the first look.
        announced: Version last announced to the server.
        problem: Reported reason why files with this fingerprint do not load; empty if they do.
        gone: Reported reason why files are missing; empty if they exist.
    """

    fingerprint: str = ""
    announced: int = 0
    problem: str = ""
    gone: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at weights: its result, the observation to keep, the newest version, and a message, empty if none."""

    sight: Sight
    seen: Seen
    latest: Weights
    message: str = ""


def latest_versions(store: StoreLayout) -> dict[str, Weights]:
    """The newest version of every registered name."""
    ordered = sorted(registered_weights(store), key=lambda item: item.version)
    return {item.name: item for item in ordered}


def read_seen(store: StoreLayout) -> dict[str, Seen]:
    """The last observations, by name."""
    if not store.watch_json().exists():
        return {}
    return {name: Seen(**value) for name, value in read_json(store.watch_json()).items()}


def write_seen(store: StoreLayout, seen: Mapping[str, Seen]) -> None:
    """Keep the observations."""
    write_json(store.watch_json(), {name: asdict(item) for name, item in seen.items()})


def look_at(
    store: StoreLayout,
    latest: Weights,
    seen: Seen,
    quiet_seconds: float,
    pause: Callable[[float], None] = time.sleep,
) -> Look:
    """Check the files of weights, and register them as the next version if they are new, complete and at rest.

    Args:
        store: The store.
        latest: Newest version of the name.
        seen: Observation of the previous look.
        quiet_seconds: Seconds that files must have been at rest.
        pause: Waits that long; replaced where waiting must end early.
    """
    try:
        paths = _sources(latest)
        before = fingerprint(paths)
    except (WeightsError, OSError) as error:
        message = f"{latest.name}: {_describe_missing(error, latest)}"
        return Look(Sight.GONE, replace(seen, gone=message), latest, "" if message == seen.gone else message)
    seen = replace(seen, gone="")
    if before == seen.fingerprint:
        return Look(Sight.UNLOADABLE if seen.problem else Sight.UNCHANGED, seen, latest)
    pause(max(0.0, quiet_seconds - _age(paths)))
    if _moves(paths, before):
        return Look(Sight.WRITING, seen, latest, f"{latest.name}: {paths[0]} is still being written; not registered")
    try:
        inspected = inspect_weights(store, latest.name, _location(latest), latest.base)
    except WeightsError as error:
        inspected, message = None, f"{latest.name}: {error}"
    if _moves(paths, before):
        return Look(Sight.WRITING, seen, latest, f"{latest.name}: {paths[0]} changed while it was read; not registered")
    if inspected is None:
        return Look(Sight.UNLOADABLE, replace(seen, fingerprint=before, problem=message), latest, message)
    added = register_weights(store, replace(inspected, note=latest.note))
    seen = replace(seen, fingerprint=before, problem="")
    if added.version == latest.version:
        return Look(Sight.UNCHANGED, seen, latest)
    message = f"{added.name}@{added.version} registered: sha256 {added.sha256[:12]}, was {latest.sha256[:12]}"
    return Look(Sight.CHANGED, seen, added, message)


def fingerprint(paths: Sequence[Path]) -> str:
    """Digest over names, sizes, times and inodes of files and of all files of folders, without reading them.

    Raises:
        OSError: If a path does not exist or is an empty folder.
    """
    stats = [(str(file), file.stat()) for file in _files(paths)]
    if empty := [path for path in paths if not any(_files([path]))]:
        msg = "an empty folder"
        raise FileNotFoundError(0, msg, str(empty[0]))
    return digest_json(sorted((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats))


def open_for_writing(paths: Sequence[Path]) -> bool:
    """True if a visible process of this machine has one of these files open for writing (Linux)."""
    wanted = {str(file.resolve()) for file in _files(paths)}
    for descriptor in _PROCESSES.glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) in wanted and _writes(descriptor):
                return True
        except OSError:  # the process has ended, or belongs to another user
            continue
    return False


def _location(weights: Weights) -> str:
    """Origin of new versions: the repository, or the absolute path."""
    return weights.source if weights.source.startswith(HUB) else str(weights.path)


def _sources(weights: Weights) -> tuple[Path, ...]:
    """Files of the weights; asks the hub for the newest commit, or its cache when offline."""
    path = Path(_location(weights))
    if weights.source.startswith(HUB):
        from storage.weights.checkpoints import resolve

        path = resolve(weights.source)
    return (path, *([Path(weights.base)] if weights.base else []))


def _describe_missing(error: Exception, weights: Weights) -> str:
    if isinstance(error, OSError):
        path = error.filename or weights.path
        return f"{path} is missing ({error.strerror}); restore it, or register other weights: medsam3 weights add"
    return str(error)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (file for file in path.rglob("*") if file.is_file())
        else:
            yield path


def _age(paths: Sequence[Path]) -> float:
    """Seconds since the newest file changed; 0 if its time is in the future, or a file has just been removed."""
    try:
        return max(0.0, time.time() - max(file.stat().st_mtime for file in _files(paths)))
    except OSError:
        return 0.0


def _moves(paths: Sequence[Path], before: str) -> bool:
    try:
        return fingerprint(paths) != before or open_for_writing(paths)
    except OSError:
        return True


def _writes(descriptor: Path) -> bool:
    info = (descriptor.parents[1] / "fdinfo" / descriptor.name).read_text(encoding="ascii")
    flags = next((line.split()[1] for line in info.splitlines() if line.startswith("flags:")), "0")
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY
