"""What `medsam3 train --plan` prints: cases, concepts and their balance, before an hour is spent."""

from collections.abc import Iterator

from medsam3_core.training.plans import TrainingPlan
from storage.store.layout import StoreLayout
from storage.training.manifest import build_manifest, select_cases


def describe_plan(store: StoreLayout, plan: TrainingPlan) -> Iterator[str]:
    """Lines for a person: what is learned from, how often each concept is there, and the digest of the data."""
    cohorts = select_cases(store, plan)
    manifest = build_manifest(store, cohorts)
    yield f"weights {plan.name} from {plan.base}, {plan.loop.steps} steps of {plan.loop.batch} slices"
    for cohort in cohorts:
        kept = f"{len(cohort.validation)} kept back for validation"
        yield f"cohort {cohort.plan.cohort}: {len(cohort.train)} cases, {kept}, share {cohort.plan.share:g}"
    yield f"{'cohort':20} {'split':10} {'concept':24} {'slices':>7} {'negatives':>9} {'instances':>9} {'rarity':>7}"
    for row in manifest.balance():
        rarity = "-" if row["rarity"] is None else f"{row['rarity']:g}"
        yield (
            f"{row['cohort']:20} {row['split']:10} {row['concept']:24} {row['slices']:7} {row['negatives']:9} "
            f"{row['instances']:9} {rarity:>7}"
        )
    yield f"data digest {manifest.digest}"
