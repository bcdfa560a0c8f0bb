"""Flow `watch-weights`: registers new files or commits of known weights, checks and announces them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from prefect import flow
from prefect.states import Completed, Failed, State

from flows.messages.console import tell
from flows.service.checks import failed_checks
from flows.service.deployed import store_of
from flows.service.events import ALERT, CHANGED, NoServerError, send_event
from flows.service.notifications import notify_and_log
from flows.settings.settings import Settings, read_settings
from medsam3_core.errors import UsageError
from storage.store.layout import StoreLayout
from storage.store.locks import holding
from storage.weights.registry import registered_weights
from storage.weights.watch import Look, Seen, Sight, latest_versions, look_at, read_seen, write_seen
from storage.weights.weights import Weights


@dataclass(frozen=True, slots=True)
class WatchSummary:
    """Result of one pass over all watched weights.

    Attributes:
        checked: Number of watched names.
        registered: New versions as `NAME@N`.
        waiting: Names of weights whose files are still being written.
        failed: Names of weights whose files are missing or cannot be loaded.
    """

    checked: int
    registered: tuple[str, ...]
    waiting: tuple[str, ...]
    failed: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.checked} weights checked, {len(self.registered)} changed"]
        parts += [f"registered {', '.join(self.registered)}"] if self.registered else []
        parts += [f"still being written: {', '.join(self.waiting)}"] if self.waiting else []
        parts += [f"missing or not loadable: {', '.join(self.failed)}"] if self.failed else []
        return "; ".join(parts)


@flow(name="watch-weights", flow_run_name="watch-weights")
def watch_weights(store: str = "", once: bool = True, announce: bool = True) -> State[WatchSummary]:
    """Watch registered weights: register new versions, run the doctor, send the event that starts benchmarks.

    Args:
        store: Folder of the store; empty for `$MEDSAM3_STORE`.
        once: Check all weights once instead of every `watch.every_seconds` of the settings.
        announce: Send events to the Prefect server; otherwise versions are registered and announced later.
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
    return (Failed if summary.failed else Completed)(message=str(summary), data=summary)


def watch_pass(store: StoreLayout, settings: Settings, *, announce: bool) -> WatchSummary:
    """Check all watched weights once; a problem with one does not delay the others.

    Raises:
        UsageError: If the settings name weights that are not registered.
        StoreError: If the store cannot be read.
    """
    seen = read_seen(store)
    registered, waiting, failed = [], [], []
    watched = list(_watched(store, settings))
    for latest in watched:
        known = seen.get(latest.name) or Seen(announced=latest.version)
        look = look_at(store, latest, known, settings.watch.quiet_seconds)
        seen[latest.name] = look.seen
        write_seen(store, seen)
        if look.sight in (Sight.GONE, Sight.UNLOADABLE):
            failed.append(latest.name)
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
    return WatchSummary(len(watched), tuple(registered), tuple(waiting), tuple(failed))


def _watched(store: StoreLayout, settings: Settings) -> Iterator[Weights]:
    latest = latest_versions(store)
    if unknown := sorted(set(settings.watch.weights) - set(latest)):
        known = ", ".join(latest) or "none yet"
        msg = f"the settings watch {', '.join(unknown)}, which is not registered; registered: {known}"
        raise UsageError(msg)
    yield from (item for name, item in latest.items() if not settings.watch.weights or name in settings.watch.weights)


def _announced(store: StoreLayout, look: Look, *, announce: bool) -> bool:
    """Run the doctor and send the event; False if no server accepted it, so that the next pass retries."""
    latest = look.latest
    if not announce:
        tell(
            "no Prefect server is configured (PREFECT_API_URL); update the benchmarks with: "
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
    """Notify people about missing or unloadable files; once, until the files change."""
    if not look.message:
        return
    tell(look.message, alarming=True)
    name = look.latest.name
    message = {"kind": "alert", "weights": name, "problem": str(look.sight), "text": look.message}
    notify_and_log(settings.notify, message)
    if announce:
        try:
            send_event(ALERT, name, message)
        except NoServerError as error:
            tell(str(error), alarming=True)
