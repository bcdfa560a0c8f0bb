"""Compare the rules of the agent with plain text prompts: mean Dice on held-out cases, synonyms and plain names.

python -m scripts.agent --weights tiny-medical [--cases 3] [--hippocampus FOLDER] [--set threshold=0.05] [--all]

The test split of phantoms (seed 99, never used for training) and, if the folder is given, of the MSD hippocampus.
Both strategies use the same weights on the same slices; means are over phrases, of the mean over cases with the
structure. Structures that no shipped weights were trained for are left out unless `--all` is given.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam3_core.agent.requests import read_request
from medsam3_core.agent.session import AgentSession
from medsam3_core.agent.strategy import AgentRun, answer_requests
from medsam3_core.agent.vocabulary.vocabulary import reviewed_vocabulary
from medsam3_core.cases.cases import CaseVolume
from medsam3_core.cases.intensity import IntensityPolicy, as_rgb, to_uint8
from medsam3_core.cases.recipes import Recipe
from medsam3_core.inference.protocol import Segmenter
from medsam3_core.settings.inference import InferenceSettings
from scripts.agent_phrases import PHRASES, trained_sources, trained_texts
from storage.sources.registry import find_reader
from storage.store.layout import StoreLayout
from storage.weights.registry import find_weights, load_segmenter

SEED = 99


@dataclass(frozen=True, slots=True)
class Source:
    """Source of cases; the last cases are the test split."""

    name: str
    source: str
    reader: str = "auto"


def sources(cases: int, hippocampus: str | None, untrained: bool = False) -> Iterator[Source]:
    """Phantoms with phrases, and real cases if their folder is given."""
    trained = trained_sources()
    for kind in PHRASES:
        if kind not in trained and not untrained:
            continue
        if kind == "msd_hippocampus":
            if hippocampus:
                yield Source(kind, hippocampus, "msd_hippocampus")
        else:
            yield Source(kind, f"phantom:{kind},cases={4 * cases},seed={SEED}")


def held_out(source: Source, cases: int) -> Iterator[tuple[CaseVolume, Recipe]]:
    """Up to `cases` cases of the test split."""
    layout, recipe = find_reader(source.source, source.reader)
    listed = sorted(layout.list_cases(Path(source.source), recipe), key=lambda case: case.case_id)
    test = [case for case in listed if case.split == "test"] or listed[-recipe.split.test_last :]
    for case in test[-cases:]:
        yield layout.read_case(Path(source.source), case, recipe), recipe


def session_on(case: CaseVolume, recipe: Recipe, segmenter: Segmenter, settings: InferenceSettings) -> AgentSession:
    """Agent session on a case in memory."""
    window = IntensityPolicy.parse(recipe.window).value_range(case.voxels)
    return AgentSession(
        segmenter,
        lambda z, _: as_rgb(to_uint8(case.voxels[..., z, :, :], window)),
        case.geometry,
        settings,
        lambda z: case.voxels[..., z, :, :],
    )


def dice(drawn: np.ndarray, reference: np.ndarray) -> float:
    """Dice of two masks; the reference must not be empty."""
    return float(2 * np.count_nonzero(drawn & reference) / (np.count_nonzero(drawn) + np.count_nonzero(reference)))


def measure(weights: str, words: argparse.Namespace) -> None:
    """Measure one set of weights and print its table."""
    found = find_weights(StoreLayout(words.store), weights)
    settings = InferenceSettings.parse(words.set)
    segmenter = load_segmenter(found, "cpu")
    scores: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for source in sources(words.cases, words.hippocampus, words.all):
        for number, (case, recipe) in enumerate(held_out(source, words.cases), 1):
            print(f"{source.name}, case {number}", file=sys.stderr, flush=True)
            session = session_on(case, recipe, segmenter, settings)
            reference = case.references[0]
            for name, phrases in PHRASES[source.name].items():
                mask = reference.mask(name)
                if not mask.any():
                    continue
                structure = recipe.structure(name)
                for phrase in (structure.text, *phrases):
                    (plain,) = session.segment_texts([phrase])
                    answer = answer_requests(session, {name: phrase}, AgentRun()).answers[name]
                    kind = "plain" if phrase == structure.text else "synonym"
                    pair = (dice(plain.labels() > 0, mask), dice(answer.labels > 0, mask))
                    scores[kind, f"{source.name}/{name}", phrase].append(pair)
    report(weights, scores)


def report(weights: str, scores: dict[tuple[str, str, str], list[tuple[float, float]]]) -> None:
    """One line per structure, then the means over phrases."""
    means = {key: np.mean(pairs, axis=0) for key, pairs in scores.items()}
    print(f"{weights}\n{'structure':32} {'phrases':>7} {'text':>7} {'rules':>7}")
    for structure in dict.fromkeys(key[1] for key in means):
        rows = [mean for key, mean in means.items() if key[:2] == ("synonym", structure)]
        text, rules = np.mean(rows, axis=0)
        print(f"{structure:32} {len(rows):7} {text:7.3f} {rules:7.3f}")
    for kind in ("synonym", "plain"):
        rows = [mean for key, mean in means.items() if key[0] == kind]
        text, rules = np.mean(rows, axis=0)
        print(
            f"mean over {len(rows)} {kind} phrases: text {text:.3f}, rules {rules:.3f}, difference {rules - text:+.3f}"
        )
    trained = trained_texts()
    known = [key[2] for key in means if key[0] == "synonym" and key[2].lower() in trained]
    unread = [key[2] for key in means if read_request(key[2], reviewed_vocabulary()).term is None]
    print(f"phrases used in training: {known or 'none'}")
    print(f"phrases unknown to the vocabulary: {unread or 'none'}")


def main() -> None:
    """Measure all given weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", action="append", required=True)
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--hippocampus", help="folder of the MSD hippocampus")
    parser.add_argument("--set", action="append", default=[], help="inference settings, as for the command line")
    parser.add_argument("--all", action="store_true", help="also structures that the weights were not trained for")
    parser.add_argument("--store", type=Path, default=Path("medsam3-store"))
    words = parser.parse_args()
    for weights in words.weights:
        measure(weights, words)


if __name__ == "__main__":
    main()
