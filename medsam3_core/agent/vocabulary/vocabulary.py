"""A reviewed vocabulary: names of structures, and the names to use as text prompts."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

_SPELLINGS = tuple(
    (re.compile(pattern), british)
    for pattern, british in (
        (r"tumor", "tumour"),
        (r"(?<!o)esophag", "oesophag"),
        (r"hemorrhag", "haemorrhag"),
        (r"(?<!o)edema", "oedema"),
        (r"foet", "fet"),
        (r"\bgray\b", "grey"),
        (r"center", "centre"),
        (r"fiber", "fibre"),
        (r"(?<!a)cecum", "caecum"),
        (r"hemato", "haemato"),
        (r"\bnevus\b", "naevus"),
        (r"color", "colour"),
        (r"(?<=l)eucocyte", "eukocyte"),
    )
)
_PLURALS = {
    "nuclei": "nucleus", "hippocampi": "hippocampus", "vertebrae": "vertebra", "lentes": "lens", "renes": "ren",
    "pulmones": "pulmo", "polypi": "polypus", "foci": "focus", "calculi": "calculus", "metastases": "metastasis",
    "arteriae": "arteria", "venae": "vena", "femora": "femur", "atria": "atrium", "ventriculi": "ventriculus",
    "abdominal": "abdomen", "costae": "costa", "naevi": "naevus", "neoplasmata": "neoplasma", "vasa": "vas",
    "noduli": "nodulus", "nodi": "nodus", "cystes": "cystis", "dentes": "dens", "nieren": "niere",
    "zellkerne": "zellkern", "knoten": "knoten", "teeth": "tooth", "biopsies": "biopsy", "reins": "rein",
    "rinones": "rinon", "poumons": "poumon", "zysten": "zyste", "lungen": "lunge",
}  # fmt: skip
_KEPT_S = re.compile(r"(ss|us|is|os|ens)$|^(pancreas|atlas|gas|vas|biceps|triceps)$")
_FILLERS = """
the a an this that these those of in on at to for and or any all some please segment segmentation show me find outline
delineate mark draw mask locate where is are there i we you can could would want need see give with by from its his her
their patient patients picture image scan slice here visible present if which what does do contains containing holds
called known der die das des den le la les el los las un une von du de del und et y bitte
"""
FILLERS = frozenset(_FILLERS.split())
"""Words without anatomical meaning."""
_VAGUE = frozenset(
    ("organ", "thing", "structure", "stuff", "tissue", "body", "area", "region", "part", "object", "spot", "zone")
)
"""Words used only if there are no others."""


class Side(StrEnum):
    """Side of the patient."""

    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True, slots=True)
class Term:
    """A structure and its names.

    Attributes:
        name: Stable name.
        text: The plain name, the text prompt for weights.
        plain: Plain names of other recipes, used unchanged as text prompts.
        synonyms: Other English names and spellings.
        latin: Latin names.
        foreign: Names in other languages.
        described: Descriptions in a clinician's or a layman's words.
        paired: True if there is one on each side of the body.
        parent: Name of the term that it is a part of.
        finding: True for a lesion or similar, which may be absent and can be searched inside an organ.
    """

    name: str
    text: str
    plain: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    latin: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    described: tuple[str, ...] = ()
    paired: bool = False
    parent: str | None = None
    finding: bool = False

    @property
    def plain_names(self) -> tuple[str, ...]:
        """Names used unchanged as text prompts."""
        return (self.text, *self.plain)

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every name, plain ones first."""
        return (*self.plain_names, *self.synonyms, *self.latin, *self.foreign, *self.described)


@dataclass(frozen=True, slots=True)
class Found:
    """The term named by a phrase; `plain` is True if the phrase is a plain name of it."""

    term: Term
    plain: bool


class Vocabulary:
    """Terms by every name they have.

    Raises:
        ValueError: If two terms share a name.
    """

    def __init__(self, terms: Iterable[Term]) -> None:
        self.terms: Mapping[str, Term] = {term.name: term for term in terms}
        self._by_name: dict[str, Term] = {}
        for term in self.terms.values():
            for name in term.all_names:
                key = plain_words(name)
                other = self._by_name.setdefault(key, term)
                if other is not term:
                    msg = f"{name!r} means both {other.name!r} and {term.name!r}; a name must mean one thing"
                    raise ValueError(msg)

    def exact(self, phrase: str) -> Found | None:
        """The term with this name."""
        term = self._by_name.get(plain_words(phrase))
        return None if term is None else Found(term, " ".join(phrase.lower().split()) in term.plain_names)

    def nearest(self, phrase: str) -> Found | None:
        """The term whose names share the most words with a phrase; None if too few are shared.

        All words of the name must occur, or 60 % of the words of both. Of equals the longer name wins; else None.
        """
        asked = content_words(phrase)
        if not asked:
            return None
        best: tuple[float, int] = (0.0, 0)
        found: set[str] = set()
        for words, term in self._content:
            shared = len(asked & words)
            likeness = shared / len(asked | words)
            if not shared or not (words <= asked or likeness >= 0.6):
                continue
            rank = (round(shared + likeness, 6), len(words))
            if rank > best:
                best, found = rank, {term.name}
            elif rank == best:
                found.add(term.name)
        return Found(self.terms[found.pop()], plain=False) if len(found) == 1 else None

    @cached_property
    def _content(self) -> list[tuple[frozenset[str], Term]]:
        pairs = {(content_words(name), term.name) for term in self.terms.values() for name in term.all_names}
        return [
            (words, self.terms[name])
            for words, name in sorted(pairs, key=lambda one: (sorted(one[0]), one[1]))
            if words
        ]


@lru_cache(maxsize=1)
def reviewed_vocabulary() -> Vocabulary:
    """The shipped vocabulary, `terms.yaml` beside this module."""
    written: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("terms.yaml").read_text("utf-8"))
    return Vocabulary(Term(name, **_with_tuples(fields)) for name, fields in written.items())


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


def plain_words(phrase: str) -> str:
    """Normalise a phrase: lower case, British spelling, singular, no punctuation or leading articles."""
    words = [singular(word) for word in words_of(phrase)]
    while len(words) > 1 and words[0] in {"the", "a", "an"}:
        words.pop(0)
    return " ".join(words)


def content_words(phrase: str) -> frozenset[str]:
    """Stems of the meaningful words of a phrase."""
    words = [word for word in words_of(phrase) if word not in FILLERS]
    telling = [word for word in words if word not in _VAGUE]
    return frozenset(stem(word) for word in telling or words)


def words_of(phrase: str) -> list[str]:
    """Words in lower case and British spelling, without accents."""
    folded = phrase.lower().translate(_ACCENTS).replace("'s", "")
    for pattern, british in _SPELLINGS:
        folded = pattern.sub(british, folded)
    return re.findall(r"[a-z0-9]+", folded)


def singular(word: str) -> str:
    """Singular of an English, Latin or common foreign word, for lookups."""
    if word in _PLURALS:
        return _PLURALS[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not _KEPT_S.search(word) else word


def stem(word: str) -> str:
    """A crude stem: `filters`, `filtering` and `filter` are one word."""
    word = singular(word)
    endings = ("ation", "ating", "ing", "ed", "es", "er", "or", "e", "al", "ic", "y")
    while ending := next((one for one in endings if len(word) - len(one) >= 4 and word.endswith(one)), None):
        word = word[: -len(ending)]
    return word


_ACCENTS = str.maketrans("áàâäãéèêëíìîïóòôöõúùûüñç", "aaaaaeeeeiiiiooooouuuunc", "")
