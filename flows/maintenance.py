"""The flow that looks after a store: compaction, eviction of encodings, sweeping of leftovers."""

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.messages.console import tell
from flows.messages.tables import in_units
from flows.service.deployed import store_of
from flows.settings.settings import MaintenanceSettings, read_settings
from storage.store.layout import StoreLayout
from storage.upkeep.upkeep import Upkeep, compact_store, prune_store
from storage.weights.encodings import parse_size

_HOUR = 3600.0


@flow(name="maintenance", flow_run_name="maintenance")
def maintain_store(store: str = "", encodings: str = "") -> str:
    """Compact scores, trim the cache of encodings, sweep what killed processes left. No number is lost.

    Args:
        store: Folder of the store; empty for `$MEDSAM3_STORE`.
        encodings: Size to which the cache of slice encodings is trimmed, such as `20GB`; empty for the settings' own.
    """
    layout = store_of(store)
    settings = read_settings(layout.root).maintenance
    compacted = compact(layout, settings.files_per_run)
    swept = sweep(layout, settings, encodings)
    for run_id in compacted.busy:
        tell(f"run {run_id} is being written; its scores are compacted next time")
    said = f"{len(compacted.compacted)} runs compacted; {upkeep_words(swept)}"
    rows = [
        {"what": "runs compacted", "count": len(compacted.compacted)},
        {"what": "runs left alone, being written", "count": len(compacted.busy)},
        {"what": "leftovers removed", "count": swept.leftovers},
        {"what": "replaced score generations removed", "count": swept.generations},
        {"what": "encodings evicted", "count": swept.encodings},
        {"what": "bytes freed", "count": swept.freed_bytes},
    ]
    create_table_artifact(rows, key="maintenance", description=said)
    tell(said)
    return said


@task(name="compact-scores", cache_policy=NO_CACHE)
def compact(store: StoreLayout, files_per_run: int) -> Upkeep:
    """Many score files of a run become one."""
    return compact_store(store, more_files_than=files_per_run)


@task(name="sweep-leftovers", cache_policy=NO_CACHE)
def sweep(store: StoreLayout, settings: MaintenanceSettings, encodings: str) -> Upkeep:
    """Remove what nobody needs."""
    return prune_as_set(store, settings, encodings)


def upkeep_words(swept: Upkeep) -> str:
    """What went, in words."""
    counts = f"{swept.leftovers} leftovers, {swept.generations} replaced score generations, {swept.encodings} encodings"
    return f"{counts}: {in_units(swept.freed_bytes)}"


def prune_as_set(store: StoreLayout, settings: MaintenanceSettings, encodings: str, *, dry_run: bool = False) -> Upkeep:
    """Prune as the settings say, and encodings to a size if one is given."""
    size = encodings or settings.encodings
    return prune_store(
        store,
        encodings_size=parse_size(size) if size else None,
        leftover_seconds=settings.leftover_hours * _HOUR,
        dry_run=dry_run,
    )
