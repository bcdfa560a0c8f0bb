"""Share of empty masks of small weights for texts of absent and of present structures.

    python -m scripts.absent --store DIR [--weights tiny-medical] [--threshold 0.05] [--merge semantic] [--data DIR]

Takes the test cases of the cohorts of `scripts.small_weights` (and ingests what the store lacks). On the slice with
the largest reference of each, it prompts by text: structures present on the slice, absent structures of the same
cohort, structures of the other cohorts, and words never used in training. Structures of other cohorts that the slice
may show without a label (a crop of one hippocampus may be the left one) are counted separately. Prints shares per
cohort and over all.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from medsam3_core.inference.merging import merge_instances
from medsam3_core.prompts.prompts import SlicePrompt
from medsam3_core.sam3.segmenter import Sam3Segmenter
from medsam3_core.settings.inference import InferenceSettings
from scripts.small_weights import PHANTOMS, SOURCES, ingest_missing
from storage.cohorts.cohorts import case_refs, latest_cases, read_cohort
from storage.store.layout import StoreLayout
from storage.training.slices import validation_case
from storage.weights.checkpoints import open_segmenter
from storage.weights.shipped import shipped_checkpoint

KINDS = ("present", "absent", "of other cohorts", "unseen words", "may be there")
UNSEEN = ("wristwatch", "coronary stent", "bicycle wheel", "mandibular molar")
MAY_BE_THERE = {"hippocampus": "hippocampus", "held-out-mr": "hippocampus"}
"""Per cohort: a word in texts of other cohorts for structures that its slices may show without a label."""


def main() -> None:
    """Prompt all cohorts and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--weights", default="tiny-medical")
    parser.add_argument("--threshold", type=float, default=0.05)
    parser.add_argument("--merge", default="semantic", help="`semantic` (the semantic mask) or `auto` (instances)")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    store = StoreLayout(options.store)
    cohorts = (*SOURCES, *PHANTOMS)
    ingest_missing(store, cohorts, options.data)
    segmenter = open_segmenter(shipped_checkpoint(options.weights))
    settings = InferenceSettings.parse([f"threshold={options.threshold}", f"merge={options.merge}"])
    texts = {name: {one.name: one.text for one in read_cohort(store, name).recipe.structures} for name in cohorts}
    print(f"{options.weights}, threshold {options.threshold}, merge {options.merge}: share of empty masks (prompts)")
    total: dict[str, list[bool]] = defaultdict(list)
    for cohort in cohorts:
        counts = _counts(store, cohort, texts, segmenter, settings)
        print(f"{cohort:14} {_shown(counts)}", flush=True)
        for kind, empty in counts.items():
            total[kind] += empty
    print(f"{'all':14} {_shown(total)}")


def _shown(counts: dict[str, list[bool]]) -> str:
    return "  ".join(f"{kind} {np.mean(counts[kind]):.2f} ({len(counts[kind])})" for kind in KINDS if counts.get(kind))


def _counts(
    store: StoreLayout,
    cohort: str,
    texts: dict[str, dict[str, str]],
    segmenter: Sam3Segmenter,
    settings: InferenceSettings,
) -> dict[str, list[bool]]:
    """True per empty mask, by kind of text."""
    counts: dict[str, list[bool]] = defaultdict(list)
    for ref in case_refs(latest_cases(store, cohort)):
        if ref.split != "test":
            continue
        case = validation_case(store, ref, read_cohort(store, cohort).recipe)
        masks = {name: case.reference.mask(name) for name in texts[cohort]}
        z = int(np.argmax(np.sum([mask.sum(axis=(1, 2)) for mask in masks.values()], axis=0)))
        (encoding,) = segmenter.encode([case.slices(z, "recipe")], settings)
        asked = {text: "present" if masks[name][z].any() else "absent" for name, text in texts[cohort].items()}
        others = {text for other, own in texts.items() if other != cohort for text in own.values()}
        shared = MAY_BE_THERE.get(cohort)
        asked |= {
            text: "may be there" if shared and shared in text else "of other cohorts"
            for text in sorted(others - set(asked))
        }
        asked |= dict.fromkeys(UNSEEN, "unseen words")
        for text, kind in asked.items():
            prompt = SlicePrompt("asked", text=text)
            (answer,) = segmenter.segment(encoding, [prompt], settings)
            counts[kind].append(not merge_instances(answer, prompt, settings).masks.any())
    return counts


if __name__ == "__main__":
    main()
