"""Trained small SAM3 weights shipped with the product, each a Hugging Face folder with its facts and model card.

shipped_weights/<name>/weights/{model.safetensors, config.json}, facts.json, trained_on.json, log.jsonl, README.md
"""

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from storage.cohorts.image_hashes import newest_image_digests
from storage.store.atomic import read_json, write_json
from storage.store.layout import StoreLayout
from storage.store.schemas import TRAINING
from storage.store.tables import read_table

SHIPPED = Path(__file__).with_name("shipped_weights")
FACTS, TRAINED_ON, LOG, WEIGHTS = "facts.json", "trained_on.json", "log.jsonl", "weights"
MAX_BYTES = 16 * 1024 * 1024
"""Maximum size of shipped weights."""


@cache
def shipped_names() -> tuple[str, ...]:
    """Names of the shipped weights, sorted."""
    return tuple(sorted(path.parent.name for path in SHIPPED.glob(f"*/{FACTS}")))


def shipped_folder(name: str) -> Path:
    """Folder of shipped weights with their facts and model card."""
    return SHIPPED / name


def shipped_checkpoint(name: str) -> Path:
    """The weights alone, in Hugging Face format; their digest covers this folder."""
    return SHIPPED / name / WEIGHTS


@cache
def shipped_training_digests() -> dict[str, frozenset[str]]:
    """Digests of training cases, and of their images alone, by the sha256 of shipped weights."""
    found = {}
    for name in shipped_names():
        learned = read_json(SHIPPED / name / TRAINED_ON)
        digests = (*learned["case_digests"], *learned.get("image_digests", ()))
        found[read_json(SHIPPED / name / FACTS)["sha256"]] = frozenset(digests)
    return found


def ship(run_folder: Path, name: str, facts: dict[str, Any], target: Path = SHIPPED) -> Path:
    """Copy the result of a finished training run, with its facts of the registry, to the shipped weights.

    Raises:
        ValueError: If the file is larger than `MAX_BYTES`.
    """
    size = (run_folder / "weights" / "model.safetensors").stat().st_size
    if size > MAX_BYTES:
        msg = f"{run_folder} holds {size} bytes of weights; at most {MAX_BYTES} are shipped: train with half: true"
        raise ValueError(msg)
    folder = target / name
    (folder / WEIGHTS).mkdir(parents=True, exist_ok=True)
    for file in ("weights/model.safetensors", "weights/config.json", "config.json", LOG, "curves.png"):
        shutil.copyfile(run_folder / file, folder / ("training_config.json" if file == "config.json" else file))
    record = read_json(run_folder / "run.json")
    learned = {"cases": record["cases"], "data": record["data_digest"], **_digests(run_folder)}
    write_json(folder / TRAINED_ON, learned)
    own = {"name": name, "version": 1, "path": None, "source": "", "training": record["training_id"]}
    own["parents"] = record["parents"]
    write_json(folder / FACTS, facts | own)
    shipped_names.cache_clear()
    shipped_training_digests.cache_clear()
    return folder


def _digests(run_folder: Path) -> dict[str, list[str]]:
    """Digests of the cases in the manifest of a run, and of their images in its store."""
    table = read_table(run_folder / "manifest", TRAINING, columns=["cohort", "case_id", "case_digest"])
    cases = {(row["cohort"], row["case_id"]) for row in table.to_pylist()}
    store = StoreLayout(run_folder.parents[1])
    images = {cohort: newest_image_digests(store, cohort) for cohort in {cohort for cohort, _ in cases}}
    return {
        "case_digests": sorted(pc.unique(table["case_digest"]).to_pylist()),
        "image_digests": sorted({images[cohort][case] for cohort, case in cases if case in images[cohort]}),
    }
