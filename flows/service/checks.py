"""Checks of an installation, each with a remedy if it fails."""

import importlib.metadata
import os
import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from medsam3_core.errors import Medsam3Error, WeightsError
from storage.cohorts.cohorts import cohort_names, read_cohort
from storage.store.layout import StoreLayout, open_store
from storage.store.locations import is_remote
from storage.weights.registry import registered_weights, require_unchanged

_GIGABYTE = 1_000_000_000
_MIN_MEMORY = 6 * _GIGABYTE
_MIN_DISK = 5 * _GIGABYTE


class Grade(StrEnum):
    """Result of a check; `failed` means that a benchmark would not work."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor: name of the check, grade, facts and remedy (empty if none is needed)."""

    name: str
    grade: Grade
    facts: str
    remedy: str = ""


Check = Callable[[Path], Iterator[Finding]]


def findings_of(name: str, check: Check, store_root: Path) -> list[Finding]:
    """Findings of a check; an error in it becomes a finding."""
    try:
        return list(check(store_root))
    except Medsam3Error as error:
        return [Finding(name, Grade.FAILED, str(error))]
    except Exception as error:  # noqa: BLE001 - one broken check must not hide the others
        return [Finding(name, Grade.FAILED, f"{type(error).__name__}: {error}", "reinstall medsam3 into a fresh venv")]


def all_findings(store_root: Path) -> Iterator[Finding]:
    """Findings of all checks, in order; each check runs when its findings are read."""
    for name, check in CHECKS.items():
        yield from findings_of(name, check, store_root)


def failed_checks(store_root: Path) -> list[Finding]:
    """Findings with grade `failed`."""
    return [finding for finding in all_findings(store_root) if finding.grade is Grade.FAILED]


def check_device(store_root: Path) -> Iterator[Finding]:
    """Cores, bf16 instructions, CUDA."""
    import torch

    from medsam3_core.sam3.tensors.precision import bf16_is_fast

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    bf16 = "bf16 in hardware" if bf16_is_fast("cpu") else "no bf16 instructions (fp32 is used)"
    facts = f"{platform.machine()}, {cores} cores, {bf16}"
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield Finding("device", Grade.OK, f"{facts}; CUDA {torch.version.cuda}: {names}")
        return
    yield Finding("device", Grade.OK, f"{facts}; no CUDA device: full-size SAM3 takes seconds per slice on a CPU")


def check_memory(store_root: Path) -> Iterator[Finding]:
    """Memory for one worker with full-size weights."""
    free = psutil.virtual_memory().available
    facts = f"{free / _GIGABYTE:.1f} GB available"
    if free < _MIN_MEMORY:
        needed = f"{_MIN_MEMORY / _GIGABYTE:.0f} GB per worker"
        remedy = f"full-size SAM3 needs {needed}: close other programs or use --cluster local:1"
        yield Finding("memory", Grade.WARNING, facts, remedy)
    else:
        yield Finding("memory", Grade.OK, facts)


def check_store(store_root: Path) -> Iterator[Finding]:
    """Store writable, disk free."""
    if is_remote(store_root):
        yield Finding("store", Grade.OK, f"{open_store(store_root).root} is writable")
        return
    if store_root.exists():
        open_store(store_root)
        facts = f"{store_root} is writable"
    else:
        facts = f"{store_root} does not exist yet"
    free = shutil.disk_usage(
        next(parent for parent in (store_root, *store_root.resolve().parents) if parent.exists())
    ).free
    facts = f"{facts}, {free / _GIGABYTE:.1f} GB free"
    if free < _MIN_DISK:
        yield Finding("store", Grade.WARNING, facts, "free disk space or choose another --store")
    else:
        yield Finding("store", Grade.OK, facts)


def check_versions(store_root: Path) -> Iterator[Finding]:
    """Required packages within their version ranges."""
    wrong, checked = [], 0
    for text in importlib.metadata.requires("medsam3") or ():
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        checked += 1
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        if found == "not installed" or not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found}, needed {requirement.specifier}")
    if wrong:
        yield Finding("packages", Grade.FAILED, "; ".join(wrong), "install with: pip install --upgrade medsam3")
        return
    named = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "prefect", "dask")
    )
    yield Finding(
        "packages", Grade.OK, f"{checked} within their version ranges; Python {platform.python_version()}, {named}"
    )


def check_parity(store_root: Path) -> Iterator[Finding]:
    """Outputs of small seeded weights equal those recorded when SAM3 was verified against the official code."""
    import transformers

    from medsam3_core.sam3.self_check import EXPECTED, drifted

    found = drifted()
    if found:
        remedy = "install the transformers version of constraints.txt; scores computed with this one are not comparable"
        facts = f"transformers {transformers.__version__} gives different outputs: {'; '.join(found)}"
        yield Finding("SAM3", Grade.FAILED, facts, remedy)
    else:
        yield Finding("SAM3", Grade.OK, f"{len(EXPECTED)} outputs of seeded weights are as expected")


def check_weights(store_root: Path) -> Iterator[Finding]:
    """Digest and location of registered weights; older versions may have been replaced."""
    registered = registered_weights(StoreLayout(store_root))
    newest = {item.name: item.version for item in sorted(registered, key=lambda item: item.version)}
    if not registered:
        yield Finding("weights", Grade.OK, "none registered; baselines, tiny-base and tiny-medical are built in")
    for item in registered:
        named = f"{item.name}@{item.version}"
        try:
            require_unchanged(item)
        except WeightsError as error:
            if item.version == newest[item.name]:
                yield Finding("weights", Grade.FAILED, str(error))
            else:
                yield Finding("weights", Grade.OK, f"{named} was replaced by a newer version; its scores are kept")
        else:
            yield Finding("weights", Grade.OK, f"{named} is unchanged at {item.path}")


def check_cluster(store_root: Path) -> Iterator[Finding]:
    """A worker process starts and computes."""
    from flows.clusters.clusters import dask_workers
    from flows.settings.clusters import ClusterSettings

    with dask_workers(ClusterSettings(workers=1), []) as workers:
        answer = workers.client.submit(sum, [20, 22], pure=False).result(timeout=60)
    yield Finding("cluster", Grade.OK if answer == 42 else Grade.FAILED, "a local worker process started and computed")


def check_prefect(store_root: Path) -> Iterator[Finding]:
    """The configured Prefect server responds; without one each command starts its own."""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        yield Finding("Prefect", Grade.OK, "PREFECT_API_URL is not set: every command starts its own server")
        return
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5):
            yield Finding("Prefect", Grade.OK, f"{url} answers")
    except (OSError, ValueError, urllib.error.URLError) as error:
        remedy = "start it with: prefect server start, or unset PREFECT_API_URL"
        yield Finding("Prefect", Grade.FAILED, f"{url} does not answer ({error})", remedy)


def check_licences(store_root: Path) -> Iterator[Finding]:
    """Data licence of each cohort."""
    store = StoreLayout(store_root)
    names = cohort_names(store)
    if not names:
        yield Finding("licences", Grade.OK, "no cohort in the store yet")
    for name in names:
        licence = read_cohort(store, name).recipe.licence
        if licence == "unknown":
            remedy = "clarify before publishing: set `licence` in a recipe file and ingest with --recipe"
            yield Finding("licences", Grade.WARNING, f"{name}: unknown", remedy)
        else:
            yield Finding("licences", Grade.OK, f"{name}: {licence}")


CHECKS: dict[str, Check] = {
    "device": check_device,
    "memory": check_memory,
    "store": check_store,
    "packages": check_versions,
    "SAM3": check_parity,
    "weights": check_weights,
    "cluster": check_cluster,
    "Prefect": check_prefect,
    "licences": check_licences,
}
