"""Every path of a store, in one place. No other module joins path segments under the store's root.

    cohorts/<cohort>/cohort.json, cases/, volumes/<aa>/, prompts/<prompt_id>/, fingerprints/, agreement/
    weights/registry.json
    runs/<run_id>/run.json, plan/, outcomes/, predictions/<aa>/, scores/gen-NNNN/
    catalog.duckdb

`<aa>` spreads cases over 256 folders: the first two hex digits of the SHA-256 of the case_id.

The root may be `s3://bucket/prefix`. Files that need not be shared (the catalog's file, caches, the weights that come
with the product) then lie in a folder of this machine, see `storage.store.locations.cache_folder`.
"""

import hashlib
import os
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from medsam3_core.errors import StoreError, UsageError
from storage.store.locations import cache_folder, connection_errors, is_remote, location
from storage.store.pseudonyms import require_key_outside

STORE_VARIABLE = "MEDSAM3_STORE"
"""Environment variable that names the default store."""
DEFAULT_STORE = "medsam3-store"
"""Folder of the store if neither an option nor the variable names one."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_GENERATION = re.compile(r"gen-(\d{4,})")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can name a folder of the store.

    Raises:
        UsageError: If it is not 1..100 letters, digits and `_ . -`, or starts with a sign.
    """
    if not _NAME.fullmatch(name):
        msg = (
            f"{kind} name {name!r} is invalid: use 1 to 100 letters, digits and _ . - and start with a letter or digit"
        )
        raise UsageError(msg)
    return name


def _two(case_id: str) -> str:
    return hashlib.sha256(case_id.encode()).hexdigest()[:2]


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """Paths below one root folder."""

    root: Path

    @property
    def own_folder(self) -> Path:
        """Folder of this machine for files that need not be shared: the store itself if it is a folder."""
        return cache_folder(self.root) if is_remote(self.root) else self.root

    def cohorts(self) -> Path:
        """Folder of all cohorts."""
        return self.root / "cohorts"

    def cohort(self, cohort: str) -> Path:
        """Folder of one cohort."""
        return self.cohorts() / check_name("cohort", cohort)

    def cohort_json(self, cohort: str) -> Path:
        """Sources, recipe and licence of a cohort."""
        return self.cohort(cohort) / "cohort.json"

    def cases(self, cohort: str) -> Path:
        """Folder of the case tables."""
        return self.cohort(cohort) / "cases"

    def image_hashes(self, cohort: str) -> Path:
        """Folder of the tables with digests and perceptual hashes of images."""
        return self.cohort(cohort) / "fingerprints"

    def agreement(self, cohort: str) -> Path:
        """Folder of the tables that compare the raters of a case with each other."""
        return self.cohort(cohort) / "agreement"

    def listed(self, cohort: str) -> Path:
        """Folder of the journal of an ingest that is not finished."""
        return self.cohort(cohort) / "listed"

    def volume(self, cohort: str, case_id: str, *, zipped: bool) -> Path:
        """Image and references of one case: a zip for one slice, a folder for volumes."""
        suffix = ".ozx" if zipped else ".ome.zarr"
        return self.cohort(cohort) / "volumes" / _two(case_id) / f"{check_name('case', case_id)}{suffix}"

    def prompts(self, cohort: str, prompt_id: str) -> Path:
        """Folder of the prompt tables of one policy."""
        return self.cohort(cohort) / "prompts" / check_name("prompt", prompt_id)

    def weights(self) -> Path:
        """Folder of registry and built-in weights."""
        return self.root / "weights"

    def registry_json(self) -> Path:
        """The weights registry."""
        return self.weights() / "registry.json"

    def registry_lock(self) -> Path:
        """Lock held while the registry is written."""
        return self.root / ".locks" / "registry.lock"

    def learned_from(self) -> Path:
        """Folder of the lists of cases that weights of this store learned from, one file per weights."""
        return self.weights() / "learned-from"

    def watch_json(self) -> Path:
        """State of the watched weights when the watcher last looked."""
        return self.weights() / "watch.json"

    def watch_lock(self) -> Path:
        """Lock held by the one watcher of a store."""
        return self.root / ".locks" / "watch.lock"

    def built_in_weights(self, name: str) -> tuple[Path, Path]:
        """Folder of weights that come with the product, and the file that describes them."""
        folder = self.own_folder / "weights" / "built-in"
        return folder / name, folder / f"{name}.json"

    def training(self, training_id: str) -> Path:
        """Folder of one training run: configuration, manifest, checkpoints, log, curves, weights.

        Raises:
            UsageError: If the store is an object store: the libraries that write checkpoints need a folder.
        """
        if is_remote(self.root):
            msg = f"training writes checkpoints into a folder, but the store is {self.root}; choose a --store on a disk"
            raise UsageError(msg)
        return self.root / "training" / check_name("training", training_id)

    def runs(self) -> Path:
        """Folder of all runs."""
        return self.root / "runs"

    def run(self, run_id: str) -> Path:
        """Folder of one run."""
        return self.runs() / check_name("run", run_id)

    def run_json(self, run_id: str) -> Path:
        """Spec, versions and machine of a run."""
        return self.run(run_id) / "run.json"

    def plan(self, run_id: str) -> Path:
        """Folder of the plan tables."""
        return self.run(run_id) / "plan"

    def requests(self, run_id: str) -> Path:
        """Folder of the requests that made the run."""
        return self.run(run_id) / "requests"

    def outcomes(self, run_id: str) -> Path:
        """Folder of the ledger."""
        return self.run(run_id) / "outcomes"

    def measurements(self, run_id: str) -> Path:
        """Folder of the measurement tables of one run."""
        return self.run(run_id) / "measurements"

    def exports(self, run_id: str) -> Path:
        """Folder of the tables of released files."""
        return self.run(run_id) / "exports"

    def prediction(self, run_id: str, case_id: str) -> Path:
        """Label images of one case, always a zip."""
        return self.run(run_id) / "predictions" / _two(case_id) / f"{check_name('case', case_id)}.ozx"

    def traces(self, run_id: str) -> Path:
        """Folder of the agent's traces."""
        return self.run(run_id) / "traces"

    def agent_spending(self, run_id: str) -> Path:
        """Folder of the agent's spending, one file per batch and case."""
        return self.run(run_id) / "agent-spending"

    def scores(self, run_id: str) -> Path:
        """Folder of the newest generation of score tables (generation 0 if there is none yet)."""
        folder = self.run(run_id) / "scores"
        found = [entry for entry in folder.glob("gen-*") if _GENERATION.fullmatch(entry.name)]
        return max(found, key=lambda entry: int(entry.name[4:]), default=folder / "gen-0000")

    def catalog(self) -> Path:
        """The DuckDB file of views."""
        return self.own_folder / "catalog.duckdb"

    def report(self, name: str) -> Path:
        """A report that a triggered benchmark wrote."""
        return self.own_folder / "reports" / f"{check_name('report', name)}.html"

    def encodings(self) -> Path:
        """Cache of slice encodings; deleting it costs only time."""
        return self.own_folder / "encodings"

    def breadcrumbs(self) -> Path:
        """Folder where running batches note their current case; empty when nothing runs."""
        return self.root / ".breadcrumbs"

    def sign(self, name: str) -> Path:
        """File by which workers on other machines prove that they see this store."""
        return self.breadcrumbs() / check_name("sign", name)

    def ingest_lock(self, cohort: str) -> Path:
        """Lock held by the one driver that ingests into a cohort."""
        return self.root / ".locks" / f"cohort-{check_name('cohort', cohort)}.lock"

    def writer_lock(self, run_id: str) -> Path:
        """Lock held by the driver that writes a run."""
        return self.root / ".locks" / f"run-{check_name('run', run_id)}.lock"

    def release_lock(self, folder: str) -> Path:
        """Lock held by the process that releases into an output folder, named by its digest."""
        return self.root / ".locks" / f"out-{check_name('folder', folder)}.lock"

    def writer_token(self, run_id: str) -> Path:
        """File with the token of the driver whose workers may commit to a run."""
        return self.root / ".locks" / f"run-{check_name('run', run_id)}.token"


def open_store(root: Path | str) -> StoreLayout:
    """The store at `root`, created if absent and tested to be writable.

    Raises:
        StoreError: If the folder cannot be created or written; names it.
        UsageError: If it is neither a folder nor on `s3://`, or the key of patients' pseudonyms lies in it.
    """
    root = location(root)
    if is_remote(root):
        return _open_remote(root)
    require_key_outside(root)
    probe = root / f".writable-{uuid.uuid4().hex[:8]}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe.touch()
        os.unlink(probe)
    except OSError as error:
        msg = f"store {root} is not writable ({error.strerror}); choose another with --store or free the disk"
        raise StoreError(msg) from error
    return StoreLayout(root)


def _open_remote(root: Path) -> StoreLayout:
    probe = root / f".writable-{uuid.uuid4().hex[:8]}"
    unreachable: tuple[type[Exception], ...] = (OSError, *connection_errors())
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except unreachable as error:
        msg = (
            f"store {root} is not writable ({error}); does the bucket exist, and do AWS_ACCESS_KEY_ID, AWS_PROFILE or "
            "the machine's role, and AWS_ENDPOINT_URL, give access to it?"
        )
        raise StoreError(msg) from error
    return StoreLayout(root)


def existing_store(root: Path | str) -> StoreLayout:
    """The store at `root`, for reading.

    Raises:
        StoreError: If there is none or it cannot be reached; gives the command that creates one.
        UsageError: If it is neither a folder nor on `s3://`.
    """
    root = location(root)
    try:
        found = (root / "cohorts").is_dir()
    except connection_errors() as error:
        msg = f"store {root} cannot be reached: {error}"
        raise StoreError(msg) from error
    if not found:
        msg = f"no store at {root}; create one with: medsam3 ingest SOURCE --cohort NAME --store {root}"
        raise StoreError(msg)
    return StoreLayout(root)


def utc_now() -> datetime:
    """Current time in UTC, without a zone: tables hold UTC only."""
    return datetime.now(UTC).replace(tzinfo=None)
