"""Flow `train`: ingests missing cohorts, trains, registers the weights."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.ingest import ingest_cohort
from flows.messages.console import say
from flows.service.deployed import store_of
from flows.settings.defaults import CLUSTER
from flows.settings.python_internals import forget_thread_exit_hooks
from medsam3_core.errors import UsageError
from medsam3_core.settings.extras import Extra, require_extra
from storage.ingest.journal import is_ingested
from storage.ingest.plan import IngestRequest
from storage.store.layout import StoreLayout

if TYPE_CHECKING:  # it imports torch
    from medsam3_core.training.plans import TrainingPlan


@flow(name="train", flow_run_name="train-{config}")
def train_flow(config: str, store: str = "", cluster: str = CLUSTER) -> dict[str, Any]:
    """Train by a configuration; started again, it resumes from its last checkpoint.

    Args:
        config: Configuration file, or the name of a shipped one.
        store: Folder of the store; empty for `$MEDSAM3_STORE`.
        cluster: Cluster by name, to ingest missing cohorts.
    """
    require_extra(Extra.TRAIN, "the flow train", "accelerate", "peft")
    # Both import torch, which deploying the flows does not need.
    from storage.training.configs import find_training_config, read_training_config
    from tasks.train import processes

    layout = store_of(store)
    plan = read_training_config(find_training_config(config))
    for cohort in plan.cohorts:
        if cohort.source is not None and not is_ingested(layout, cohort.cohort):
            if processes() > 1:
                msg = (
                    f"cohort {cohort.cohort} is not completely ingested; ingest it before {processes()} processes "
                    "train on it"
                )
                raise UsageError(msg)
            say(f"cohort {cohort.cohort} is not completely ingested; ingesting {cohort.source}")
            ingest_cohort(IngestRequest(cohort.source, cohort.cohort), str(layout.root), cluster)
    return _train(layout, plan)


@task(name="train-weights", task_run_name="train-{plan.name}", cache_policy=NO_CACHE)
def _train(store: StoreLayout, plan: "TrainingPlan") -> dict[str, Any]:
    from tasks.train import train_weights

    return train_weights(store, plan, _say_progress)


def _say_progress(entry: dict[str, Any]) -> None:
    """Print one line per log entry: losses, or scores of a validation."""
    step = f"step {entry['step']}/{entry['steps']}"
    numbers = {name.removeprefix("eval_"): value for name, value in entry.items() if name not in _HIDDEN}
    shown = "  ".join(f"{name} {float(value):.3g}" for name, value in numbers.items())
    say(f"{step}  {'validation  ' if 'eval_dice' in entry else ''}{shown}")


_HIDDEN = frozenset({"step", "steps", "epoch", "total_flos", "grad_norm"})


def describe(record: dict[str, Any]) -> list[str]:
    """Result of a training in three lines: weights, folder, data."""
    best = "not validated" if record["best"] is None else f"validation Dice {record['best']:.3f}"
    return [
        f"weights {record['weights']}@{record['version']}  sha256 {record['sha256'][:12]}  {best}",
        f"folder  {Path(record['folder']).resolve()}",
        f"data    {record['data_digest'][:12]}, {sum(record['cases'].values())} cases",
    ]


def _forget_hooks_of_prefect() -> None:
    """Remove Prefect's exit hooks in a forked child; the services that they drain live in the parent.

    Prefect 3 resets its services in a child but not these hooks, which then fail: processes that read training slices
    would exit with code 1, and the training with them.
    """
    forget_thread_exit_hooks("prefect")


os.register_at_fork(after_in_child=_forget_hooks_of_prefect)
