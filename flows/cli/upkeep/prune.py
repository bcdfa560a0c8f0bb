"""`medsam3 prune`: remove unneeded files."""

from dataclasses import replace
from pathlib import Path

from flows.maintenance import describe_upkeep, prune_by_settings
from flows.messages.console import say
from flows.settings.settings import read_settings
from storage.store.layout import existing_store


def run_prune(root: Path, encodings: str | None, older_than_hours: float | None, *, dry_run: bool) -> int:
    """Prune a store and report what was removed; exit code 0."""
    store, settings = existing_store(root), read_settings(root).maintenance
    if older_than_hours is not None:
        settings = replace(settings, leftover_hours=older_than_hours)
    swept = prune_by_settings(store, settings, encodings or "", dry_run=dry_run)
    say(("would remove " if dry_run else "removed ") + describe_upkeep(swept))
    return 0
