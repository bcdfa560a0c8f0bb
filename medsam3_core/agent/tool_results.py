"""What tools tell a model: numbers, and words of our own."""

from typing import Any

from medsam3_core.agent.measuring import MOST_LISTED, intensity_facts, object_facts, size_of
from medsam3_core.agent.session import AgentSession, Candidate
from medsam3_core.errors import UsageError


def candidate_facts(session: AgentSession, candidate: Candidate) -> dict[str, Any]:
    """Id, count, size and the objects of a mask, best first; at most `MOST_LISTED` of them one by one."""
    labels, scores = candidate.labels(), candidate.scores
    facts: dict[str, Any] = {"mask": candidate.number, "count": len(scores)}
    if candidate.empty:
        return facts
    listed = [
        {"object": number, "score": round(float(score), 3), **object_facts(labels == number, session.geometry)}
        for number, score in enumerate(scores[:MOST_LISTED], start=1)
    ]
    return facts | size_of(labels > 0, session.geometry) | {"objects": listed}


def measured(session: AgentSession, candidate: Candidate, number: int | None) -> dict[str, Any]:
    """Size, position, side, intensity and count of a mask, or of one object of it.

    Raises:
        UsageError: If there is no such object.
    """
    labels = candidate.labels()
    if number is not None and number > len(candidate.scores):
        msg = f"mask {candidate.number} has {len(candidate.scores)} objects, there is no object {number}"
        raise UsageError(msg)
    mask = labels > 0 if number is None else labels == number
    count = len(candidate.scores) if number is None else 1
    intensity = intensity_facts(mask, session.voxels)
    return {"mask": candidate.number, "count": count, **object_facts(mask, session.geometry), "intensity": intensity}
