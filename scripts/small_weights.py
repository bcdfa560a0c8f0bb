"""Mean Dice of the shipped weights on held-out cases, beside baselines and targets.

    python -m scripts.small_weights [--store DIR] [--data DIR] [--weights tiny-base --weights tiny-medical]

Ingests the real cohorts and phantoms with seeds not used in training, benchmarks the test splits (text, box, one
central point; tiles for vessels) and prints mean Dice per question from the leaderboard, failures as zero. Text
prompts use the semantic mask unless the row says otherwise.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medsam3_core.prompts.policies import PromptPolicy
from medsam3_core.settings.inference import InferenceSettings
from storage.catalog.guard import run_sql
from storage.store.layout import StoreLayout

BASELINES = ("baseline:box", "baseline:otsu")


@dataclass(frozen=True)
class Question:
    """One row of the table.

    Attributes:
        label: Title of the row.
        cohort: Cohort.
        prompt: Policy.
        settings: Inference settings.
        metric: Column of the leaderboard without `_mean`.
        target: Target of `tiny-medical`.
    """

    label: str
    cohort: str
    prompt: str
    settings: tuple[str, ...] = ("threshold=0.05",)
    metric: str = "dice"
    target: float | None = None


SEMANTIC, PARTS = ("merge=semantic",), ("merge=components",)
QUESTIONS = (
    Question("hippocampus, text", "hippocampus", "text", SEMANTIC, target=0.85),
    Question("hippocampus, text, by instances", "hippocampus", "text"),
    Question("hippocampus, box", "hippocampus", "box", target=0.87),
    Question("hippocampus, box, semantic mask", "hippocampus", "box", SEMANTIC, target=0.87),
    Question("hippocampus, one central point", "hippocampus", "points:pos=1", ("mode=interactive",), target=0.78),
    Question("fundus vessels, text, whole image", "chase", "text", SEMANTIC),
    Question("fundus vessels, text, 4 x 4 tiles", "chase", "text", ("tiles=4", *SEMANTIC)),
    Question("fundus vessels, text, 6 x 6 tiles", "chase", "text", ("tiles=6", *SEMANTIC), target=0.72),
    Question("nuclei, text", "dsb18", "text", SEMANTIC, target=0.80),
    Question("nuclei, text, 2 x 2 tiles", "dsb18", "text", ("tiles=2", *PARTS), target=0.80),
    Question("nuclei, text, by instances", "dsb18", "text"),
    Question("nuclei, text, components, F1 at IoU 0.5", "dsb18", "text", PARTS, "instance_f1", 0.60),
    Question("nuclei, text, 2 x 2 tiles, components, F1", "dsb18", "text", ("tiles=2", *PARTS), "instance_f1", 0.60),
    Question("nuclei, text, by instances, F1 at IoU 0.5", "dsb18", "text", metric="instance_f1"),
    Question("nuclei, box per nucleus", "dsb18", "box"),
    Question("phantom CT, text", "held-out-ct", "text", SEMANTIC, target=0.85),
    Question("phantom CT, text, by instances", "held-out-ct", "text"),
    Question("phantom CT, box", "held-out-ct", "box", target=0.90),
    Question("phantom MR, text", "held-out-mr", "text", SEMANTIC, target=0.85),
    Question("phantom MR, text, by instances", "held-out-mr", "text"),
    Question("phantom MR, box", "held-out-mr", "box", target=0.90),
)
SOURCES = {"hippocampus": "Task04_Hippocampus", "chase": "CHASE_DB1", "dsb18": "DSB18"}
PHANTOMS = {"held-out-ct": "phantom:ct,cases=16,seed=905", "held-out-mr": "phantom:mr,cases=16,seed=905"}


def main() -> None:
    """Benchmark all cohorts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="kept; a temporary one by default")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--weights", action="append", help="default: tiny-base and tiny-medical")
    parser.add_argument("--cohort", action="append", help="only these cohorts")
    options = parser.parse_args()
    weights = tuple(options.weights or ("tiny-base", "tiny-medical"))
    questions = [one for one in QUESTIONS if not options.cohort or one.cohort in options.cohort]
    with tempfile.TemporaryDirectory() as scratch:
        store = StoreLayout(options.store or Path(scratch) / "store")
        ingest_missing(store, dict.fromkeys(one.cohort for one in questions), options.data)
        for cohort, settings in dict.fromkeys((one.cohort, one.settings) for one in questions):
            prompts = dict.fromkeys(one.prompt for one in questions if (one.cohort, one.settings) == (cohort, settings))
            _benchmark(store, cohort, settings, prompts, weights)
        _print(store, questions, (*BASELINES, *weights))


def ingest_missing(store: StoreLayout, cohorts: Iterable[str], data: Path) -> None:
    """Ingest cohorts that the store lacks."""
    for cohort in cohorts:
        if not (store.root / "cohorts" / cohort).is_dir():
            _medsam3(store, "ingest", PHANTOMS.get(cohort) or str(data / SOURCES[cohort]), "--cohort", cohort)


def _benchmark(
    store: StoreLayout, cohort: str, settings: tuple[str, ...], prompts: dict[str, None], weights: tuple[str, ...]
) -> None:
    asked = [word for prompt in prompts for word in ("--prompt", prompt)]
    chosen = [word for name in weights for word in ("--weights", name)]
    given = [word for setting in settings for word in ("--set", setting)]
    _medsam3(store, "benchmark", "--cohort", cohort, "--split", "test", *asked, *chosen, *given)
    if "box" in prompts:
        both = [word for name in BASELINES for word in ("--weights", name)]
        _medsam3(store, "benchmark", "--cohort", cohort, "--split", "test", "--prompt", "box", *both)


def _print(store: StoreLayout, questions: list[Question], names: tuple[str, ...]) -> None:
    print(f"{'question':46}" + "".join(f"{name:>16}" for name in names) + f"{'target':>9}")
    for one in questions:
        query = f"""
            SELECT l.weights, avg(l.{one.metric}_mean_failures_as_zero) AS mean
            FROM leaderboard l JOIN runs r USING (run_id)
            WHERE l.cohort = '{one.cohort}' AND l.split = 'test' AND l.prompt = '{_canonical(one.prompt)}'
              AND (r.settings = '{_settings(one.settings)}' OR l.weights LIKE 'baseline:%')
            GROUP BY l.weights
        """
        found = {row["weights"]: row["mean"] for row in run_sql(store, query).to_pylist()}
        shown = "".join(f"{found[name]:16.3f}" if found.get(name) is not None else f"{'':16}" for name in names)
        print(f"{one.label:46}{shown}" + (f"{one.target:9.2f}" if one.target else ""))


def _canonical(prompt: str) -> str:
    return PromptPolicy.parse(prompt).canonical()


def _settings(settings: tuple[str, ...]) -> str:
    return InferenceSettings.parse(settings).canonical()


def _medsam3(store: StoreLayout, *words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "flows", *words, "--store", str(store.root)], check=False)
    if done.returncode not in (0, 1):
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
