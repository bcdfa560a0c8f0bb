"""Every path of a store, in one place. Nothing else joins path segments under the store's root.

    cohorts/<cohort>/cohort.json, cases/, volumes/<aa>/, prompts/<prompt_id>/, fingerprints/, agreement/
    weights/registry.json
    runs/<run_id>/run.json, plan/, outcomes/, predictions/<aa>/, scores/gen-NNNN/
    catalog.duckdb

`<aa>` spreads cases over 256 folders: the first two hex digits of the SHA-256 of the case_id.

The root may be `s3://bucket/prefix`. What belongs to a store and is not shared (the catalog's file, caches, the weights
that come with the product) then lies in a folder of this machine, see `storage.store.locations.cache_folder`.
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
DEFAULT_STORE = "medsam3-store"
"""Folder of the store where nothing else is said."""
"""Environment variable that names the store where nothing else does."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_GENERATION = re.compile(r"gen-(\d{4,})")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can be a folder of the store.

    Raises:
        UsageError: If it could leave its folder or is not 1..100 letters, digits and `_ . -`.
    """
    if not _NAME.fullmatch(name):
        msg = f"{kind} name {name!r} may hold 1 to 100 letters, digits and _ . - and starts with a letter or digit"
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
        """Folder of this machine for what need not be shared: the store itself where it is one."""
        return cache_folder(self.root) if is_remote(self.root) else self.root

    def cohorts(self) -> Path:
        """Folder of all cohorts."""
        return self.root / "cohorts"

    def cohort(self, cohort: str) -> Path:
        """Folder of one cohort."""
        return self.cohorts() / check_name("cohort", cohort)

    def cohort_json(self, cohort: str) -> Path:
        """What the cohort is: sources, recipe, licence."""
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
        """Held while the registry is written."""
        return self.root / ".locks" / "registry.lock"

    def learned_from(self) -> Path:
        """Folder of the lists of cases that weights of this store learned from, one file per weights."""
        return self.weights() / "learned-from"

    def watch_json(self) -> Path:
        """What the watcher of weights last saw."""
        return self.weights() / "watch.json"

    def watch_lock(self) -> Path:
        """Held by the one watcher of a store."""
        return self.root / ".locks" / "watch.lock"

    def built_in_weights(self, name: str) -> tuple[Path, Path]:
        """Folder of weights that come with the product, and the file with what is known about them."""
        folder = self.own_folder / "weights" / "built-in"
        return folder / name, folder / f"{name}.json"

    def training(self, training_id: str) -> Path:
        """Folder of one training run: configuration, manifest, checkpoints, log, curves, weights.

        Raises:
            UsageError: If the store is an object store: checkpoints are written by libraries that know folders alone.
        """
        if is_remote(self.root):
            msg = f"training writes checkpoints into a folder, and the store is {self.root}; give a --store on a disk"
            raise UsageError(msg)
        return self.root / "training" / check_name("training", training_id)

    def runs(self) -> Path:
        """Folder of all runs."""
        return self.root / "runs"

    def run(self, run_id: str) -> Path:
        """Folder of one run."""
        return self.runs() / check_name("run", run_id)

    def run_json(self, run_id: str) -> Path:
        """The run's spec, versions, machine."""
        return self.run(run_id) / "run.json"

    def plan(self, run_id: str) -> Path:
        """Folder of what was planned."""
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
        """Folder of the tables of what was released."""
        return self.run(run_id) / "exports"

    def prediction(self, run_id: str, case_id: str) -> Path:
        """Label images of one case, always a zip."""
        return self.run(run_id) / "predictions" / _two(case_id) / f"{check_name('case', case_id)}.ozx"

    def traces(self, run_id: str) -> Path:
        """Folder of what the agent did."""
        return self.run(run_id) / "traces"

    def agent_spending(self, run_id: str) -> Path:
        """Folder of what the agent has spent, one file per batch and case."""
        return self.run(run_id) / "agent-spending"

    def scores(self, run_id: str) -> Path:
        """Folder of the newest generation of score tables (generation 0 where there is none yet)."""
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
        """Cache of slice encodings; deleting it loses time and nothing else."""
        return self.own_folder / "encodings"

    def breadcrumbs(self) -> Path:
        """Folder where running batches note the case in hand; empty when nothing runs."""
        return self.root / ".breadcrumbs"

    def sign(self, name: str) -> Path:
        """File by which workers of other machines prove that they see this store."""
        return self.breadcrumbs() / check_name("sign", name)

    def ingest_lock(self, cohort: str) -> Path:
        """Lock of the one driver that ingests into a cohort."""
        return self.root / ".locks" / f"cohort-{check_name('cohort', cohort)}.lock"

    def writer_lock(self, run_id: str) -> Path:
        """Held by the driver that writes a run."""
        return self.root / ".locks" / f"run-{check_name('run', run_id)}.lock"

    def release_lock(self, folder: str) -> Path:
        """Held by the process that releases into a folder outside, which a digest names."""
        return self.root / ".locks" / f"out-{check_name('folder', folder)}.lock"

    def writer_token(self, run_id: str) -> Path:
        """Names the driver whose workers may commit to a run."""
        return self.root / ".locks" / f"run-{check_name('run', run_id)}.token"


def open_store(root: Path | str) -> StoreLayout:
    """The store at `root`, created if absent and proved writable.

    Raises:
        StoreError: If the folder cannot be made or written; names it.
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
        StoreError: If there is none or it cannot be reached; says how to make one.
        UsageError: If it is neither a folder nor on `s3://`.
    """
    root = location(root)
    try:
        found = (root / "cohorts").is_dir()
    except connection_errors() as error:
        msg = f"store {root} cannot be reached: {error}"
        raise StoreError(msg) from error
    if not found:
        msg = f"no store at {root}; make one with: medsam3 ingest SOURCE --cohort NAME --store {root}"
        raise StoreError(msg)
    return StoreLayout(root)


def utc_now() -> datetime:
    """Now, UTC, without zone: tables hold UTC only."""
    return datetime.now(UTC).replace(tzinfo=None)
