"""Ownership of the output folder: it holds the files of one run, named in its `labels.json`.

A run that takes over a folder first removes the files released there, then writes its own `labels.json`. Only files
written under its claim count as released. So the files always belong to the run that `labels.json` names, wherever a
process dies.
"""

import hashlib
import uuid
from pathlib import Path
from typing import Any

from medsam3_core.errors import StoreError, UsageError
from storage.exports.label_maps import label_names
from storage.exports.ledger import MANIFEST, MEASUREMENTS_FILE
from storage.runs.ledger import Run
from storage.store.atomic import read_json, remove, write_json
from storage.store.layout import StoreLayout
from storage.store.runs import run_ids
from storage.store.schemas import EXPORTS
from storage.store.tables import read_table
from storage.store.writers import SupersededError

LABELS = "labels.json"


def claim_folder(store: StoreLayout, run: Run, out: Path, *, anonymous: bool) -> str:
    """Claim a folder for a run; remove the files that another run of the same source released there.

    Anonymous and named output are different claims: files that name patients must not remain in an anonymous folder.

    Returns:
        The claim, recorded in every row released under it.

    Raises:
        UsageError: If the folder belongs to another export, see `require_claimable`.
        StoreError: If the folder cannot be written.
    """
    require_claimable(store, run, out, anonymous=anonymous)
    if claim := _own_claim(_labels_file(out), run, anonymous=anonymous):
        return claim
    for name in (LABELS, MANIFEST, MEASUREMENTS_FILE):
        remove(out / name)
    for file in sorted({file for files in _released_files(store, out).values() for file in files}):
        remove(out / file)
    claim = uuid.uuid4().hex[:12]
    write_json(out / LABELS, _facts(run, anonymous=anonymous) | {"claim": claim})
    return claim


def require_claimable(store: StoreLayout, run: Run, out: Path, *, anonymous: bool) -> None:
    """Refuse a folder with files that this run may not replace: other sources, exports, releases of other stores.

    Raises:
        UsageError: Names the folder and its owner.
    """
    found = _labels_file(out)
    if _own_claim(found, run, anonymous=anonymous):
        return
    named = found.get("run_id", run.run_id)
    known = run_ids(store)
    if named != run.run_id and ("cohort" in found or named not in known):
        msg = f"{out / LABELS} belongs to another export ({named}); choose another --out"
        raise UsageError(msg)
    cohorts = {run_id: read_json(store.run_json(run_id))["cohort"] for run_id in known}
    for run_id, files in _released_files(store, out).items():
        if cohorts[run_id] != run.cohort and any((out / file).exists() for file in files):
            msg = f"{out} holds segmentations of another source (run {run_id}); choose another --out"
            raise UsageError(msg)


def require_claim(out: Path, claim: str) -> None:
    """Refuse to write under a replaced claim: workers may outlive the process that started them.

    Raises:
        SupersededError: If another run has claimed the folder.
    """
    if _labels_file(out).get("claim") != claim:
        msg = f"another run has taken over {out}; this run no longer writes to it"
        raise SupersededError(msg)


def release_lock(store: StoreLayout, out: Path) -> Path:
    """Lock of the process that releases into a folder."""
    return store.release_lock(hashlib.sha256(str(out).encode()).hexdigest()[:16])


def _labels_file(out: Path) -> dict[str, Any]:
    path = out / LABELS
    if not path.exists():
        return {}
    try:
        found = read_json(path)
    except StoreError:
        found = None
    if not isinstance(found, dict):
        msg = f"{path} is not a list of labels; remove it, or choose another --out"
        raise UsageError(msg)
    return found


def _own_claim(found: dict[str, Any], run: Run, *, anonymous: bool) -> str:
    """The claim; empty if `labels.json` names another run, other label values or the other choice of `anonymous`."""
    facts = _facts(run, anonymous=anonymous)
    return str(found.get("claim", "")) if all(found.get(key) == value for key, value in facts.items()) else ""


def _facts(run: Run, *, anonymous: bool) -> dict[str, Any]:
    return {"run_id": run.run_id, "anonymous": anonymous, "labels": label_names(run.structures)}


def _released_files(store: StoreLayout, out: Path) -> dict[str, set[str]]:
    """Names of files and folders released into a folder, by run of this store."""
    folder = str(out).rstrip("/") + "/"
    found: dict[str, set[str]] = {}
    for run_id in run_ids(store):
        paths = read_table(store.exports(run_id), EXPORTS, columns=["path"])["path"].unique().to_pylist()
        names = {path.removeprefix(folder) for path in paths if path and path.startswith(folder)}
        found[run_id] = {name for name in names if "/" not in name}
    return found
