"""The flow that follows registered weights: a new file or commit is registered, examined and told to the server."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from prefect import flow
from prefect.states import Completed, Failed, State

from flows.messages.console import tell
from flows.service.checks import failed_checks
from flows.service.deployed import store_of
from flows.service.events import ALERT, CHANGED, NoServerError, send_event
from flows.service.notifications import notify
from flows.settings.settings import Settings, read_settings
from medsam3_core.errors import UsageError
from storage.store.layout import StoreLayout
from storage.store.locks import holding
from storage.weights.registry import registered_weights
from storage.weights.watch import Look, Seen, Sight, latest_versions, look_at, read_seen, write_seen
from storage.weights.weights import Weights


@dataclass(frozen=True, slots=True)
class WatchSummary:
    """What one pass over all watched weights found.

    Attributes:
        looked: Names looked at.
        registered: New versions as `NAME@N`.
        waiting: Names whose files are still being written.
        troubled: Names whose files are gone or cannot be loaded.
    """

    looked: int
    registered: tuple[str, ...]
    waiting: tuple[str, ...]
    troubled: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.looked} weights looked at, {len(self.registered)} changed"]
        parts += [f"registered {', '.join(self.registered)}"] if self.registered else []
        parts += [f"still being written: {', '.join(self.waiting)}"] if self.waiting else []
        parts += [f"in trouble: {', '.join(self.troubled)}"] if self.troubled else []
        return "; ".join(parts)


@flow(name="watch-weights", flow_run_name="watch-weights")
def watch_weights(store: str = "", once: bool = True, announce: bool = True) -> State[WatchSummary]:
    """Follow registered weights: register what is new, run the doctor on it, and send the event that starts benchmarks.

    Args:
        store: Folder of the store; empty for `$MEDSAM3_STORE`.
        once: One look at all weights rather than a look every `watch.every_seconds` of the settings.
        announce: Whether a server listens; without, versions are registered and told later.
    """
    layout = store_of(store)
    settings = read_settings(layout.root)
    with holding(layout.watch_lock(), "the weights of this store are watched"):
        while True:
            summary = watch_pass(layout, settings, announce=announce)
            if once:
                break
            time.sleep(settings.watch.every_seconds)
            settings = read_settings(layout.root)
    return (Failed if summary.troubled else Completed)(message=str(summary), data=summary)


def watch_pass(store: StoreLayout, settings: Settings, *, announce: bool) -> WatchSummary:
    """Look once at all watched weights; what happens to one of them does not keep the others waiting.

    Raises:
        UsageError: If the settings name weights that are not registered.
        StoreError: If the store cannot be read.
    """
    seen = read_seen(store)
    registered, waiting, troubled = [], [], []
    watched = list(_watched(store, settings))
    for latest in watched:
        known = seen.get(latest.name) or Seen(announced=latest.version)
        look = look_at(store, latest, known, settings.watch.quiet_seconds)
        seen[latest.name] = look.seen
        write_seen(store, seen)
        if look.sight in (Sight.GONE, Sight.UNLOADABLE):
            troubled.append(latest.name)
            _alert(settings, look, announce=announce)
        elif look.message:
            tell(look.message)
        if look.sight is Sight.WRITING:
            waiting.append(latest.name)
        if look.sight is Sight.CHANGED:
            registered.append(f"{look.latest.name}@{look.latest.version}")
        if look.latest.version > look.seen.announced and _announced(store, look, announce=announce):
            seen[latest.name] = replace(look.seen, announced=look.latest.version)
            write_seen(store, seen)
    return WatchSummary(len(watched), tuple(registered), tuple(waiting), tuple(troubled))


def _watched(store: StoreLayout, settings: Settings) -> Iterator[Weights]:
    latest = latest_versions(store)
    if unknown := sorted(set(settings.watch.weights) - set(latest)):
        known = ", ".join(latest) or "none yet"
        msg = f"the settings watch {', '.join(unknown)}, which is not registered; registered: {known}"
        raise UsageError(msg)
    yield from (item for name, item in latest.items() if not settings.watch.weights or name in settings.watch.weights)


def _announced(store: StoreLayout, look: Look, *, announce: bool) -> bool:
    """Run the doctor and send the event; False where no server took it, so that the next pass tries again."""
    latest = look.latest
    if not announce:
        tell(
            f"nobody listens (no PREFECT_API_URL): bring benchmarks up to date with: "
            f"medsam3 benchmark --weights {latest.name}"
        )
        return False
    failed = [f"{finding.name}: {finding.facts}" for finding in failed_checks(store.root)]
    for finding in failed:
        tell(f"doctor: {finding}", alarming=True)
    shas = {item.version: item.sha256 for item in registered_weights(store) if item.name == latest.name}
    payload = {
        "store": str(store.root.absolute()),
        "name": latest.name,
        "version": latest.version,
        "old_version": look.seen.announced,
        "old_sha256": shas.get(look.seen.announced, ""),
        "new_sha256": latest.sha256,
        "doctor": failed,
    }
    try:
        send_event(CHANGED, latest.name, payload)
    except NoServerError as error:
        tell(f"{latest.name}@{latest.version} is registered but not announced: {error}", alarming=True)
        return False
    tell(f"announced {latest.name}@{latest.version}: event {CHANGED}")
    return True


def _alert(settings: Settings, look: Look, *, announce: bool) -> None:
    """Tell people that files cannot be taken; once, until something about them changes."""
    if not look.message:
        return
    tell(look.message, alarming=True)
    name = look.latest.name
    message = {"kind": "alert", "weights": name, "problem": str(look.sight), "text": look.message}
    for trouble in notify(settings.notify, message):
        tell(trouble, alarming=True)
    if announce:
        try:
            send_event(ALERT, name, message)
        except NoServerError as error:
            tell(str(error), alarming=True)
