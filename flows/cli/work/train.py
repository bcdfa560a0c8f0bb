"""`medsam3 train`: run the flow, or with `--plan` print the training data."""

from collections.abc import Iterator
from pathlib import Path

from medsam3_core.training.plans import TrainingPlan
from storage.store.layout import StoreLayout, open_store
from storage.training.configs import find_training_config, read_training_config
from storage.training.manifest import build_manifest, select_cases
from tasks.train import first_process


def run_train(root: Path, config: str, cluster: str) -> int:
    """Train and print the registered weights; exit code 0."""
    layout = open_store(root)
    read_training_config(find_training_config(config))  # fail before anything starts

    from flows.service.session import prefect_session
    from flows.train import describe, train_flow

    with prefect_session():
        record = train_flow(config, str(layout.root), cluster)
    for line in describe(record) if first_process() else ():
        print(line)  # noqa: T201 - the answer
    return 0


def show_training_plan(root: Path, config: str) -> int:
    """Print the training data; exit code 0."""
    store = open_store(root)
    for line in describe_plan(store, read_training_config(find_training_config(config))):
        print(line)  # noqa: T201 - the answer
    return 0


def describe_plan(store: StoreLayout, plan: TrainingPlan) -> Iterator[str]:
    """Lines for people: cohorts, slices and instances of each concept, and the digest of the data."""
    cohorts = select_cases(store, plan)
    manifest = build_manifest(store, cohorts)
    yield f"weights {plan.name} from {plan.base}, {plan.loop.steps} steps of {plan.loop.batch} slices"
    for cohort in cohorts:
        kept = f"{len(cohort.validation)} held out for validation"
        yield f"cohort {cohort.plan.cohort}: {len(cohort.train)} cases, {kept}, share {cohort.plan.share:g}"
    yield f"{'cohort':20} {'split':10} {'concept':24} {'slices':>7} {'negatives':>9} {'instances':>9} {'rarity':>7}"
    for row in manifest.balance():
        rarity = "-" if row["rarity"] is None else f"{row['rarity']:g}"
        yield (
            f"{row['cohort']:20} {row['split']:10} {row['concept']:24} {row['slices']:7} {row['negatives']:9} "
            f"{row['instances']:9} {rarity:>7}"
        )
    yield f"data digest {manifest.digest}"
