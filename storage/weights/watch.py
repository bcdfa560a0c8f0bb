"""Has the file behind some weights changed, and may it be taken? What the watcher saw last stands in the store.

    weights/watch.json

A file counts as written when its size, time and inode have not changed for a while and no process of this machine has
it open for writing. What cannot be loaded is told once and never registered. Hashing and loading gigabytes happens only
when the file system says that something is new.
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
from storage.weights.weights import Weights

_HUB = "hf://"
_PROCESSES = Path("/proc")


class Sight(StrEnum):
    """What one look at some weights found."""

    UNCHANGED = "unchanged"
    WRITING = "still being written"
    CHANGED = "changed"
    GONE = "gone"
    UNLOADABLE = "cannot be loaded"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the watcher knows about one name.

    Attributes:
        fingerprint: Of the files as they were last taken or refused; empty before the first look.
        announced: Version that was last told to the server.
        problem: What was told about files with this fingerprint that cannot be loaded; empty where they can.
        gone: What was told about files that are not there; empty where they are.
    """

    fingerprint: str = ""
    announced: int = 0
    problem: str = ""
    gone: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at some weights.

    Attributes:
        sight: What was found.
        seen: What to remember.
        latest: Newest version now.
        message: For people; empty where nothing is new.
    """

    sight: Sight
    seen: Seen
    latest: Weights
    message: str = ""


def latest_versions(store: StoreLayout) -> dict[str, Weights]:
    """The newest version of every registered name."""
    ordered = sorted(registered_weights(store), key=lambda item: item.version)
    return {item.name: item for item in ordered}


def read_seen(store: StoreLayout) -> dict[str, Seen]:
    """What was last seen, by name."""
    if not store.watch_json().exists():
        return {}
    return {name: Seen(**value) for name, value in read_json(store.watch_json()).items()}


def write_seen(store: StoreLayout, seen: Mapping[str, Seen]) -> None:
    """Remember it."""
    write_json(store.watch_json(), {name: asdict(item) for name, item in seen.items()})


def look_at(
    store: StoreLayout,
    latest: Weights,
    seen: Seen,
    quiet_seconds: float,
    pause: Callable[[float], None] = time.sleep,
) -> Look:
    """Look at the files behind some weights, and register them as the next version if they are new, whole and at rest.

    Args:
        store: The store.
        latest: Newest version of the name.
        seen: What is known from earlier looks.
        quiet_seconds: How long files must have been at rest.
        pause: Waits that long; replaced where waiting must end early.
    """
    try:
        paths = _sources(latest)
        before = fingerprint(paths)
    except (WeightsError, OSError) as error:
        told = f"{latest.name}: {_gone_words(error, latest)}"
        return Look(Sight.GONE, replace(seen, gone=told), latest, "" if told == seen.gone else told)
    seen = replace(seen, gone="")
    if before == seen.fingerprint:
        return Look(Sight.UNLOADABLE if seen.problem else Sight.UNCHANGED, seen, latest)
    pause(max(0.0, quiet_seconds - _age(paths)))
    if _moves(paths, before):
        return Look(Sight.WRITING, seen, latest, f"{latest.name}: {paths[0]} is still being written and left alone")
    try:
        inspected = inspect_weights(store, latest.name, _location(latest), latest.base)
    except WeightsError as error:
        inspected, told = None, f"{latest.name}: {error}"
    if _moves(paths, before):
        return Look(Sight.WRITING, seen, latest, f"{latest.name}: {paths[0]} changed while it was read; left alone")
    if inspected is None:
        return Look(Sight.UNLOADABLE, replace(seen, fingerprint=before, problem=told), latest, told)
    added = register_weights(store, replace(inspected, note=latest.note))
    seen = replace(seen, fingerprint=before, problem="")
    if added.version == latest.version:
        return Look(Sight.UNCHANGED, seen, latest)
    told = f"{added.name}@{added.version} registered: sha256 {added.sha256[:12]}, was {latest.sha256[:12]}"
    return Look(Sight.CHANGED, seen, added, told)


def fingerprint(paths: Sequence[Path]) -> str:
    """Digest over names, sizes, times and inodes of files and of all files of folders, without reading them.

    Raises:
        OSError: If there is nothing at one of the paths.
    """
    rows = [
        (str(file), status.st_size, status.st_mtime_ns, status.st_ino)
        for path in paths
        for file, status in ((file, file.stat()) for file in _files([path]))
    ]
    if empty := [path for path in paths if not any(_files([path]))]:
        msg = "an empty folder"
        raise FileNotFoundError(0, msg, str(empty[0]))
    return digest_json(sorted(rows))


def open_for_writing(paths: Sequence[Path]) -> bool:
    """Whether a process of this machine that we may look at has one of these files open for writing (Linux)."""
    wanted = {str(file.resolve()) for file in _files(paths)}
    for descriptor in _PROCESSES.glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) in wanted and _writes(descriptor):
                return True
        except OSError:  # the process has ended, or it is somebody else's
            continue
    return False


def _location(weights: Weights) -> str:
    """Where new versions come from: the repository, or the absolute path."""
    return weights.source if weights.source.startswith(_HUB) else str(weights.path)


def _sources(weights: Weights) -> tuple[Path, ...]:
    """Files that decide what the weights are; asks the hub for the newest commit, or its cache where it is offline."""
    path = Path(_location(weights))
    if weights.source.startswith(_HUB):
        from storage.weights.checkpoints import resolve

        path = resolve(weights.source)
    return (path, *([Path(weights.base)] if weights.base else []))


def _gone_words(error: Exception, weights: Weights) -> str:
    if isinstance(error, OSError):
        where = error.filename or weights.path
        return f"{where} is gone ({error.strerror}); put it back, or register others: medsam3 weights add"
    return str(error)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (file for file in path.rglob("*") if file.is_file())
        else:
            yield path


def _age(paths: Sequence[Path]) -> float:
    """Seconds since the newest file changed; 0 where a clock is ahead of ours, or a file has just been taken away."""
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
