"""Requests as users may write them; a test proves that none is a training text of the shipped weights.

By source and structure; phrases for `left` and `right` structures of phantoms name the side.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from storage.sources.listing.recipes import builtin_recipes
from storage.training.configs import SHIPPED_CONFIGS, read_training_config

_READERS = {"Task04_Hippocampus": "msd_hippocampus"}
"""Folder named in a training configuration, to its key in `PHRASES`."""
PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "ct": {
        "liver": (
            "hepar",
            "the hepatic parenchyma",
            "organ that makes bile",
            "Leber",
            "largest organ of the abdomen",
            "le foie",
        ),
        "spleen": ("lien", "splenic parenchyma", "Milz", "the organ under the left ribs", "la rate"),
        "kidney_left": (
            "ren sinister",
            "kidney on the left side",
            "left renal organ",
            "linke Niere",
            "organ that filters blood, on the left",
        ),
        "kidney_right": (
            "ren dexter",
            "right-sided kidney",
            "right renal parenchyma",
            "le rein droit",
            "the right organ that makes urine",
        ),
        "aorta": (
            "the main artery of the body",
            "aortic vessel",
            "great artery in front of the spine",
            "largest artery",
            "aorta abdominalis",
        ),
    },
    "mr": {
        "ventricle": (
            "ventriculus lateralis",
            "cerebral ventricles",
            "fluid-filled cavity of the brain",
            "Seitenventrikel",
            "ventricular system of the brain",
        ),
        "hippocampus_left": ("hippocampal formation on the left", "left hippocampal region", "hippocampus sinister"),
        "hippocampus_right": (
            "hippocampal formation on the right",
            "right hippocampal structure",
            "hippocampus dexter",
        ),
        "tumour": ("intracranial neoplasm", "tumor cerebri", "mass in the brain", "a growth in the brain, if any"),
    },
    "fundus": {
        "vessel": (
            "vasa sanguinea retinae",
            "the retinal vasculature",
            "vascular tree of the eye",
            "vessels of the retina",
        ),
        "optic_disc": (
            "papilla of the optic nerve",
            "discus nervi optici",
            "blind spot of the retina",
            "where the optic nerve leaves the eye",
        ),
    },
    "nuclei": {
        "nucleus": (
            "karyon",
            "Zellkerne",
            "nuclear bodies",
            "the part of the cell that holds DNA",
            "nuclei of the cells",
        )
    },
    "dermoscopy": {"lesion": ("naevus", "cutaneous lesion", "dark spot on the skin", "Muttermal", "melanocytic naevi")},
    "endoscopy": {"polyp": ("adenoma", "polypoid growth", "bump on the bowel wall", "intestinal polyps", "polypus")},
    "xray": {
        "lung_left": ("pulmo sinister", "left lung field", "linker Lungenfluegel", "pulmonary field on the left"),
        "lung_right": ("pulmo dexter", "right pulmonary field", "the right lung parenchyma", "poumon droit"),
        "heart": ("cor", "cardiac shadow", "the organ that pumps blood", "Herz"),
    },
    "msd_hippocampus": {
        "anterior": (
            "caput hippocampi",
            "pars anterior hippocampi",
            "front part of the hippocampus",
            "front of the hippocampus",
            "front third of the hippocampus",
        ),
        "posterior": (
            "cauda hippocampi",
            "pars posterior hippocampi",
            "back of the hippocampus",
            "rear part of the hippocampus",
            "back third of the hippocampus",
        ),
    },
}


def trained_texts() -> frozenset[str]:
    """All texts in recipes and training configurations of the shipped weights, in lower case."""
    structures = [one for recipe in builtin_recipes().values() for one in recipe.structures]
    texts = {text for one in structures for text in (one.name, one.text, *one.synonyms)}
    for file in sorted(SHIPPED_CONFIGS.glob("*.yaml")):
        texts |= set(_strings(asdict(read_training_config(file))))
    return frozenset(text.lower() for text in texts)


def trained_sources() -> frozenset[str]:
    """Keys of `PHRASES` whose structures the shipped weights were trained on."""
    found = set()
    for file in SHIPPED_CONFIGS.glob("*.yaml"):
        for cohort in read_training_config(file).cohorts:
            kind = str(cohort.source).removeprefix("phantom:").split(",")[0]
            found.add(_READERS.get(kind.split("/")[-1], kind))
    return frozenset(found & PHRASES.keys())


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)
