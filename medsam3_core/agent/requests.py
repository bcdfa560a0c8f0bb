"""Parse a request in a clinician's words, without a language model: structure, side, place."""

import re
from dataclasses import dataclass, replace

from medsam3_core.agent.vocabulary.vocabulary import FILLERS, Side, Term, Vocabulary, words_of
from medsam3_core.errors import UsageError

MAX_CHARACTERS = 400
"""Maximum length of a request; a text prompt has 32 tokens, a request may have more."""

_CONDITION = re.compile(
    r"[,;(]?\s*\b(if (there (is|are) )?(any|present|visible|one)|if it exists|if there is one|falls vorhanden|"
    r"s'il y en a|si (est )?present[e]?|si hay)\b\)?",
    re.IGNORECASE,
)
_SIDES = {
    "left": Side.LEFT, "sinister": Side.LEFT, "sinistra": Side.LEFT, "sinistrum": Side.LEFT, "lt": Side.LEFT,
    "linke": Side.LEFT, "linken": Side.LEFT, "linker": Side.LEFT, "links": Side.LEFT, "gauche": Side.LEFT,
    "izquierdo": Side.LEFT, "izquierda": Side.LEFT,
    "right": Side.RIGHT, "dexter": Side.RIGHT, "dextra": Side.RIGHT, "dextrum": Side.RIGHT, "rt": Side.RIGHT,
    "rechte": Side.RIGHT, "rechten": Side.RIGHT, "rechter": Side.RIGHT, "rechts": Side.RIGHT, "droit": Side.RIGHT,
    "droite": Side.RIGHT, "derecho": Side.RIGHT, "derecha": Side.RIGHT,
}  # fmt: skip
_SIDE_PHRASES = ("hand", "side", "sided", "handed")
_PLACES = re.compile(r"\s+(?:in|inside|within|on|of|at|near|im|in der|dans|en)\s+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reading:
    """A parsed request.

    Attributes:
        words: The request with normal white space.
        term: The structure, if the vocabulary has it.
        side: Named side of the patient, unless the term's own name includes it.
        place: Named structure to search in.
        plain: True if the words are a plain name, used unchanged as the text prompt.
        conditional: True if the request says that there may be nothing.
    """

    words: str
    term: Term | None = None
    side: Side | None = None
    place: "Reading | None" = None
    plain: bool = False
    conditional: bool = False

    def texts(self, synonyms: int) -> tuple[str, ...]:
        """Text prompts: the plain name, then up to `synonyms` others; unknown words unchanged."""
        if self.term is None or self.plain:
            return (self.words,)
        names = (self.term.text, *self.term.plain, *self.term.synonyms)
        return tuple(dict.fromkeys(self._sided(name) for name in names[: 1 + synonyms]))

    def _sided(self, name: str) -> str:
        return f"{self.side} {name}" if self.side and self.term and self.term.paired else name


def read_request(text: str, vocabulary: Vocabulary) -> Reading:
    """Parse a request.

    Raises:
        UsageError: If it is empty, has no letter, or is longer than `MAX_CHARACTERS`.
    """
    words = clean_request(text)
    asked = _CONDITION.sub(" ", words).strip(" ,;.!?")
    reading = _read(asked or words, vocabulary)
    conditional = asked != words.strip(" ,;.!?")
    plain = reading.plain and not conditional
    return replace(reading, words=words if reading.term is None else asked, plain=plain, conditional=conditional)


def clean_request(text: str) -> str:
    """The request on one line without control characters.

    Raises:
        UsageError: If it has no letter, or is longer than `MAX_CHARACTERS`.
    """
    words = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    if not any(char.isalpha() for char in words):
        msg = f"the request {text!r} is empty; say in words what to segment, such as 'left kidney'"
        raise UsageError(msg)
    if len(words) > MAX_CHARACTERS:
        msg = f"the request has {len(words)} characters, at most {MAX_CHARACTERS} are read; ask for one thing at a time"
        raise UsageError(msg)
    return words


def _read(phrase: str, vocabulary: Vocabulary) -> Reading:
    """Parse a phrase: exact names first, then a side, a place, and the nearest description."""
    if exact := vocabulary.exact(phrase):
        return Reading(phrase, exact.term, plain=exact.plain)
    side, rest = _without_side(phrase)
    core = _without_fillers(rest)
    for words in dict.fromkeys((rest, core)):
        if exact := vocabulary.exact(words):
            literal = side is not None and phrase.lower().split() == [str(side), *exact.term.text.split()]
            return Reading(phrase, exact.term, side, plain=literal and exact.term.paired)
    for match in _PLACES.finditer(phrase):
        found = _read_simple(phrase[: match.start()], vocabulary)
        where = _read_simple(phrase[match.end() :], vocabulary)
        if found.term is None or not found.term.finding or where.term in (None, found.term):
            continue
        assert where.term is not None
        if joined := vocabulary.exact(f"{where.term.text} {found.term.text}"):  # "mass in the brain" is a brain tumour
            return Reading(phrase, joined.term, where.side)
        return replace(found, words=phrase, place=where, plain=False)
    nearest = vocabulary.nearest(core or phrase) or vocabulary.nearest(phrase)
    return Reading(phrase) if nearest is None else Reading(phrase, nearest.term, side)


def _read_simple(phrase: str, vocabulary: Vocabulary) -> Reading:
    """Parse a part of a request: a name, with or without a side, or a description."""
    core = _without_fillers(phrase)
    if whole := vocabulary.exact(phrase) or vocabulary.exact(core):
        return Reading(phrase, whole.term, plain=False)
    side, rest = _without_side(core)
    found = vocabulary.exact(rest) or vocabulary.nearest(rest)
    return Reading(phrase, None if found is None else found.term, side)


def _without_side(phrase: str) -> tuple[Side | None, str]:
    """The side named by a phrase, and the phrase without it."""
    words = phrase.split()
    keys = ["".join(words_of(word)) for word in words]
    sides = {_SIDES[key.removesuffix("sided")] for key in keys if key.removesuffix("sided") in _SIDES}
    if len(sides) != 1:  # none, or both: the whole
        return None, phrase
    gone = {index for index, key in enumerate(keys) if key.removesuffix("sided") in _SIDES}
    gone |= {index + 1 for index in gone if index + 1 < len(keys) and keys[index + 1] in _SIDE_PHRASES}
    kept = [word for index, word in enumerate(words) if index not in gone]
    while kept and kept[-1].lower() in FILLERS:  # "kidney on the left"
        kept.pop()
    return sides.pop(), " ".join(kept)


def _without_fillers(phrase: str) -> str:
    """The phrase without non-anatomical words at its ends."""
    words = phrase.strip(" ,;.!?").split()
    while words and words[0].lower().strip(",.") in FILLERS:
        words.pop(0)
    while words and words[-1].lower().strip(",.?!") in FILLERS:
        words.pop()
    return " ".join(words)
