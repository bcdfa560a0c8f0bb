"""The strategy without a language model: parse the request, prompt with several names, check, answer.

The result for a plain name is the answer, unchanged, at no extra cost. Other names known to the vocabulary become the
plain name, with synonyms as second opinions.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from medsam3_core.agent.answers import AgentAnswer, absent, kept_objects, taken
from medsam3_core.agent.measuring import half_masks, size_of
from medsam3_core.agent.requests import Reading, read_request
from medsam3_core.agent.session import AgentSession, Candidate
from medsam3_core.agent.trace import EventKind, Trace, stopwatch
from medsam3_core.agent.vocabulary.vocabulary import Vocabulary, reviewed_vocabulary
from medsam3_core.settings.agent import SYNONYMS

_OPINION = 0.3
"""Weight of a second opinion, against 1 for the plain name; three together do not overrule it."""
_AGREEMENT = 0.5
"""Minimum Dice of two opinions that agree."""

Mask = NDArray[np.bool_]


class RuleAgent:
    """Answers the requests of one case; `synonyms` counts second opinions per request."""

    def __init__(
        self, session: AgentSession, trace: Trace, synonyms: int = SYNONYMS, vocabulary: Vocabulary | None = None
    ) -> None:
        self._session, self._trace, self._synonyms = session, trace, synonyms
        self._vocabulary = reviewed_vocabulary() if vocabulary is None else vocabulary

    def answer(self, requests: Mapping[str, str]) -> dict[str, AgentAnswer]:
        """Answer all requests of a case, by structure; the texts of one window share one pass over the slices.

        Raises:
            UsageError: If a request is empty or too long.
        """
        readings = {name: read_request(words, self._vocabulary) for name, words in requests.items()}
        windows = {name: self._session.windows.get(name) for name in readings}
        for window in dict.fromkeys(windows.values()):
            texts = [
                text for name, one in readings.items() if windows[name] == window for text in one.texts(self._synonyms)
            ]
            self._session.segment_texts(list(dict.fromkeys(texts)), window=window)
        return {name: self._answer(name, requests[name], reading) for name, reading in readings.items()}

    def _answer(self, structure: str, words: str, reading: Reading) -> AgentAnswer:
        self._trace.structure = structure
        self._trace.add(
            EventKind.REQUEST, _understood(words, reading), result={"words": words, **_reading_json(reading)}
        )
        asked = self._ask(reading.texts(self._synonyms), self._session.windows.get(structure))
        answer = self._decide(reading, asked)
        if not reading.plain and not answer.absent and reading.place is not None:
            answer = self._inside(answer, reading.place, structure)
        if not reading.plain and not answer.absent and reading.side and not (reading.term and reading.term.paired):
            answer = self._on_side(answer, reading)
        outcome = f"absent: {answer.reason}" if answer.absent else answer.reason
        self._trace.add(EventKind.ANSWER, outcome, result={"absent": answer.absent, "objects": len(answer.scores)})
        return answer

    def _ask(self, texts: Sequence[str], window: str | None) -> list[Candidate]:
        seconds = stopwatch()
        candidates = self._session.segment_texts(texts, window=window)
        for text, candidate in zip(texts, candidates, strict=True):
            facts = _facts(candidate, self._session)
            words = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
            self._trace.add(
                EventKind.TOOL,
                f"asked for {text!r}: {words}",
                tool="segment_text",
                arguments={"text": text},
                result={"mask": candidate.number, **facts},
                seconds=seconds() / len(texts),
            )
        return candidates

    def _decide(self, reading: Reading, asked: Sequence[Candidate]) -> AgentAnswer:
        """Result of the plain name with its second opinions; if it is empty, one that two opinions agree on."""
        first, *others = asked
        if not others:
            known = "" if reading.term else "the vocabulary does not know these words; "
            if first.empty:
                return absent(self._session.geometry.shape_zyx, "nothing was drawn")
            return taken(first, f"{known}taken as drawn for {reading.texts(0)[0]!r}")
        opinions = [one for one in others if not one.empty]
        if not first.empty:
            return self._ensemble(first, opinions)
        agreed = _agreeing(opinions)
        if agreed is None:
            reason = "nothing was drawn for the plain name, and no two other names agree"
            self._trace.add(EventKind.DECISION, reason)
            return self._by_side(reading) or absent(self._session.geometry.shape_zyx, reason)
        reason = f"nothing was drawn for the plain name; {agreed[0].asked} and {agreed[1].asked} agree"
        self._trace.add(EventKind.DECISION, reason)
        return taken(agreed[0], reason)

    def _ensemble(self, first: Candidate, opinions: Sequence[Candidate]) -> AgentAnswer:
        """Voxels with more than half of the weight; the objects are those of the plain name."""
        labels = first.labels()
        agreeing = [one for one in opinions if _dice(labels > 0, one.labels() > 0) >= _AGREEMENT]
        if not agreeing:
            self._trace.add(
                EventKind.DECISION, f"kept mask {first.number}; {len(opinions)} other opinions differ from it"
            )
            return taken(first, f"taken as drawn for {first.asked}")
        weight = (labels > 0).astype(np.float32)
        for one in agreeing:
            weight += _OPINION * (one.labels() > 0)
        voted = weight > (1 + _OPINION * len(agreeing)) / 2
        kept = np.where(voted, labels, 0).astype(np.uint16)
        reason = f"{first.asked}, confirmed by {len(agreeing)} of {len(opinions)} other names"
        self._trace.add(EventKind.DECISION, reason)
        return AgentAnswer(*_renumbered(kept, first.scores), reason)

    def _by_side(self, reading: Reading) -> AgentAnswer | None:
        """Segment a paired organ without its side, and cut the pair to the side."""
        if reading.side is None or reading.term is None or not reading.term.paired:
            return None
        (pair,) = self._ask((reading.term.text,), self._session.windows.get(self._trace.structure))
        if pair.empty:
            return None
        return self._on_side(taken(pair, f"drawn for {pair.asked}"), reading)

    def _on_side(self, answer: AgentAnswer, reading: Reading) -> AgentAnswer:
        """Part of an answer on the requested side."""
        halves = half_masks(self._session.geometry)
        if halves is None or reading.side is None:
            self._trace.add(EventKind.DECISION, "the image has no orientation; both sides are kept")
            return answer
        cut = np.where(halves[reading.side], answer.labels, 0).astype(np.uint16)
        labels, scores = _renumbered(cut, answer.scores)
        reason = f"{answer.reason}, kept on the {reading.side}"
        self._trace.add(EventKind.DECISION, reason)
        return AgentAnswer(labels, scores, reason)

    def _inside(self, answer: AgentAnswer, place: Reading, structure: str) -> AgentAnswer:
        """Objects of an answer that lie mostly inside a place; all if the place is not found."""
        texts = place.texts(0)
        if place.term is not None and place.term.parent is not None and place.term.parent in self._vocabulary.terms:
            texts = (*texts, self._vocabulary.terms[place.term.parent].text)
        (where, *parents) = self._ask(texts, self._session.windows.get(structure))
        region = where if not where.empty else next((one for one in parents if not one.empty), None)
        if region is None:
            self._trace.add(EventKind.DECISION, f"{texts[0]!r} is not found, so the place cannot be checked")
            return answer
        inside = region.labels() > 0
        halves = half_masks(self._session.geometry)
        if region is where and place.side and not (place.term and place.term.paired) and halves is not None:
            inside &= halves[place.side]
        keep = np.array(
            [(inside[answer.labels == n]).mean() > 0.5 for n in range(1, len(answer.scores) + 1)], dtype=bool
        )
        labels, scores = kept_objects(answer.labels, answer.scores, keep)
        reason = f"{int(keep.sum())} of {len(keep)} objects lie in {region.asked}"
        self._trace.add(EventKind.DECISION, reason)
        return AgentAnswer(labels, scores, reason)


def _understood(words: str, reading: Reading) -> str:
    if reading.term is None:
        return f"asked for {words!r}, unknown to the vocabulary: used unchanged"
    if reading.plain:
        return f"asked for {words!r}, a plain name"
    parts = [f"asked for {words!r}, understood as {reading.term.text!r}"]
    parts += [f"on the {reading.side}"] if reading.side else []
    parts += [f"inside {reading.place.term.text!r}"] if reading.place and reading.place.term else []
    parts += ["if there is any"] if reading.conditional else []
    return ", ".join(parts)


def _reading_json(reading: Reading) -> dict[str, object]:
    return {
        "term": reading.term.name if reading.term else None,
        "side": str(reading.side) if reading.side else None,
        "place": reading.place.term.name if reading.place and reading.place.term else None,
        "plain": reading.plain,
        "conditional": reading.conditional,
    }


def _facts(candidate: Candidate, session: AgentSession) -> dict[str, object]:
    if candidate.empty:
        return {"count": 0}
    best = round(float(candidate.scores[0]), 3)
    return {"count": len(candidate.scores), "best_score": best, **size_of(candidate.labels() > 0, session.geometry)}


def _agreeing(opinions: Sequence[Candidate]) -> tuple[Candidate, Candidate] | None:
    """The first two opinions that agree."""
    masks = [one.labels() > 0 for one in opinions]
    pairs = combinations(range(len(opinions)), 2)
    return next(((opinions[i], opinions[j]) for i, j in pairs if _dice(masks[i], masks[j]) >= _AGREEMENT), None)


def _dice(first: Mask, second: Mask) -> float:
    both = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / both if both else 1.0


def _renumbered(
    labels: NDArray[np.uint16], scores: NDArray[np.float32]
) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Drop objects without voxels and renumber the others."""
    present = np.bincount(labels.ravel(), minlength=len(scores) + 1)[1:] > 0
    return kept_objects(labels, scores, present)
