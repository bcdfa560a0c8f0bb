"""Tools for a model: typed schemas, validation of its calls, and results.

Calls are untrusted input: numbers are checked against the volume, texts are short and printable, masks must exist. No
call can name a file, a host or another case. Results contain numbers and fixed words, nothing from a header.
Names, docstrings and errors here are sent to the model; a change to them makes older traces impossible to replay.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from scipy import ndimage

from medsam3_core.agent.chat import ToolCall
from medsam3_core.agent.measuring import MAX_LISTED, intensity_facts, object_facts, size_of
from medsam3_core.agent.session import AgentSession, Candidate
from medsam3_core.errors import UsageError

_Coordinate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Slice = Annotated[int, Field(ge=0, description="slice, from 0")]
_MaskId = Annotated[int, Field(ge=1, description="id of a mask, as a tool gave it")]
_ObjectNumber = Annotated[int, Field(ge=1)]
_Words = Annotated[str, Field(min_length=1, max_length=64, description="short noun phrase, such as 'left kidney'")]
_Reason = Annotated[str, Field(min_length=1, max_length=400, description="why, in one sentence")]
_MAX_CHARACTERS = 4000
"""Maximum length of the arguments of a call; longer ones are not parsed."""
_COLOURS = np.array([[230, 60, 60], [60, 200, 80], [70, 120, 240], [240, 200, 40], [220, 80, 220]], dtype=np.uint8)
_MAX_SIDE = 1024
"""Maximum side of a picture; larger ones are subsampled."""


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _printable(cls, value: Any) -> Any:
        if isinstance(value, str) and (not value.isprintable() or not any(map(str.isalnum, value)) or "<|" in value):
            msg = "holds control characters or special tokens, or no letter; write plain words"
            raise ValueError(msg)
        return value


class SegmentText(_Arguments):
    """Draw everything that a text names, on one slice or on all."""

    text: _Words
    slice: _Slice | None = None


class SegmentBox(_Arguments):
    """Draw what a box shows on one slice; the text, if any, says what the box is an example of."""

    slice: _Slice
    x0: _Coordinate
    y0: _Coordinate
    x1: _Coordinate
    y1: _Coordinate
    text: _Words | None = None


class Point(_Arguments):
    """A click: inside the object, or outside."""

    x: _Coordinate
    y: _Coordinate
    inside: bool = True


class SegmentPoints(_Arguments):
    """Draw the one object that points show on one slice."""

    slice: _Slice
    points: Annotated[list[Point], Field(min_length=1, max_length=16)]


class Look(_Arguments):
    """Look at a slice, with the outlines of a mask over it if one is named, whole or inside a box."""

    slice: _Slice
    mask: _MaskId | None = None
    box: Annotated[list[_Coordinate], Field(min_length=4, max_length=4, description="x0,y0,x1,y1")] | None = None


class Measure(_Arguments):
    """Measure a mask, or one object of it: volume, position, side, intensity, count."""

    mask: _MaskId
    object: _ObjectNumber | None = None


class AcceptedMask(_Arguments):
    """A mask of the answer; all its objects, or those that are listed."""

    mask: _MaskId
    objects: Annotated[list[_ObjectNumber], Field(min_length=1, max_length=500)] | None = None


class Accept(_Arguments):
    """Give masks as the answer; ends the case."""

    masks: Annotated[list[AcceptedMask], Field(min_length=1, max_length=20)]
    reason: _Reason


class ReportAbsent(_Arguments):
    """Answer that what was asked for is not in the image; ends the case."""

    reason: _Reason


Call = SegmentText | SegmentBox | SegmentPoints | Look | Measure | Accept | ReportAbsent
TOOLS: Mapping[str, type[Call]] = {
    "segment_text": SegmentText,
    "segment_box": SegmentBox,
    "segment_points": SegmentPoints,
    "look": Look,
    "measure": Measure,
    "accept": Accept,
    "report_absent": ReportAbsent,
}


def schema_of(name: str) -> dict[str, Any]:
    """Name, description and JSON schema of the arguments of a tool."""
    model = TOOLS[name]
    return {
        "name": name,
        "description": " ".join((model.__doc__ or "").split()),
        "parameters": model.model_json_schema(),
    }


def offered_tools(*, box: bool, interactive: bool, pixels: bool) -> tuple[str, ...]:
    """Tools for weights and endpoint: points need an interactive head, `look` needs permission to send pixels."""
    hidden = set() if box else {"segment_box"}
    hidden |= set() if interactive else {"segment_points"}
    hidden |= set() if pixels else {"look"}
    return tuple(name for name in TOOLS if name not in hidden)


def parse_call(call: ToolCall, offered: tuple[str, ...]) -> Call:
    """Validate a call.

    Raises:
        UsageError: If the tool is not offered, or an argument is missing, unknown or out of range; holds the schema.
    """
    if call.name not in offered:
        msg = f"there is no tool {call.name[:64]!r}; the tools are: {', '.join(offered)}"
        raise UsageError(msg)
    try:
        if len(call.arguments) > _MAX_CHARACTERS:
            msg = f"arguments of {len(call.arguments)} characters; at most {_MAX_CHARACTERS} are read"
            raise UsageError(msg)
        return TOOLS[call.name].model_validate(json.loads(call.arguments or "{}"))
    except (json.JSONDecodeError, RecursionError) as error:
        found = f"arguments are no JSON ({error})"
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}" for one in error.errors()[:4]]
        found = "; ".join(wrong)
    except UsageError as error:
        found = str(error)
    msg = f"{call.name}: {found}; the schema is {json.dumps(schema_of(call.name)['parameters'], sort_keys=True)}"
    raise UsageError(msg)


def candidate_facts(session: AgentSession, candidate: Candidate) -> dict[str, Any]:
    """Id, count, size and objects of a mask, best first; lists at most `MAX_LISTED` objects."""
    labels, scores = candidate.labels(), candidate.scores
    facts: dict[str, Any] = {"mask": candidate.number, "count": len(scores)}
    if candidate.empty:
        return facts
    listed = [
        {"object": number, "score": round(float(score), 3), **object_facts(labels == number, session.geometry)}
        for number, score in enumerate(scores[:MAX_LISTED], start=1)
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


def outlined(pixels: NDArray[np.uint8], labels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Copy of a slice, (y, x, 3), with coloured outlines of all objects."""
    shown = pixels.copy()
    for number in np.unique(labels[labels > 0]):
        mask = labels == number
        shown[mask & ~ndimage.binary_erosion(mask)] = _COLOURS[(int(number) - 1) % len(_COLOURS)]
    return shown


def crop_of(pixels: NDArray[np.uint8], box_xyxy: Sequence[float] | None) -> NDArray[np.uint8]:
    """Part of a slice inside a box, subsampled to at most 1024 pixels a side.

    Raises:
        UsageError: If the box is empty or leaves the slice.
    """
    if box_xyxy is not None:
        x0, y0, x1, y1 = (round(edge) for edge in box_xyxy)
        height, width = pixels.shape[:2]
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            msg = f"box {x0},{y0},{x1},{y1} is empty or leaves the slice of {width} x {height} pixels"
            raise UsageError(msg)
        pixels = pixels[y0:y1, x0:x1]
    step = -(-max(pixels.shape[:2]) // _MAX_SIDE)
    return pixels[::step, ::step]
