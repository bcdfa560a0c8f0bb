"""Trace of the agent on a case, as sentences: the request, each step, the answer and its reason."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from dashboards.figures.figures import series_name
from dashboards.views.parts import store
from storage.catalog.queries import pages

_SIGNS = {
    "request": ":material/chat:",
    "model": ":material/smart_toy:",
    "tool": ":material/build:",
    "decision": ":material/balance:",
    "fault": ":material/error:",
    "cap": ":material/timer_off:",
    "answer": ":material/check_circle:",
}


def show_story(cohort: str, case_id: str) -> None:
    """Show one trace per run and structure; nothing if no agent has worked on the case."""
    traces = pages.traces_of_case(store(), cohort, case_id)
    if traces.empty:
        return
    st.subheader("Agent traces")
    for (_, structure), events in traces.groupby(["run_id", "structure"], sort=False):
        first = events.iloc[0]
        rows: Sequence[Mapping[Any, Any]] = events.to_dict("records")
        name = series_name(first["label"], first["prompt"], first["settings"])
        with st.expander(f"**{structure}** by {name}: {_safe(ending(rows))}", expanded=len(traces) < 20):
            st.markdown(
                "\n\n".join(f"{_SIGNS[row['kind']]} {_safe(line)}" for row, line in zip(rows, story(rows), strict=True))
            )
            if costs := cost_line(rows):
                st.caption(costs)


def story(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """One sentence per event, in order."""
    return [_sentence(event) for event in events]


def ending(events: Iterable[Mapping[str, Any]]) -> str:
    """The answer, or the reason why there is none."""
    last = list(events)[-1]
    return str(last["text"]) if last["kind"] == "answer" else f"no answer: {last['text']}"


def cost_line(events: Iterable[Mapping[str, Any]]) -> str:
    """Tokens, seconds and cost of the model; empty if no model was used."""
    asked = [event for event in events if event["kind"] == "model"]
    if not asked:
        return ""
    tokens = sum(int(event["tokens_in"] or 0) + int(event["tokens_out"] or 0) for event in asked)
    seconds = sum(float(event["seconds"] or 0) for event in asked)
    known = [float(event["cost"]) for event in asked if not pd.isna(event["cost"])]
    cost = f"cost {sum(known):.4g}" if len(known) == len(asked) else "cost unknown"
    pictures = len({digest for event in asked for digest in (() if event["images"] is None else event["images"])})
    hosts = ", ".join(sorted({str(event["endpoint"]) for event in asked}))
    return (
        f"{len(asked)} responses of {asked[0]['model']} at {hosts}: {tokens} tokens, {seconds:.1f} s, {cost}, "
        f"{pictures} images sent."
    )


def _sentence(event: Mapping[str, Any]) -> str:
    text, kind = str(event["text"]), event["kind"]
    if kind == "request":
        return f"The request {text}."
    if kind == "model":
        return f"Turn {event['turn']}: {text}."
    if kind == "tool":
        return _of_tool(event)
    if kind == "decision":
        return f"Decision: {text}."
    if kind == "fault":
        return f"Fault: {text}."
    if kind == "cap":
        return f"The agent was {text}."
    return f"Answer: {text}."


def _of_tool(event: Mapping[str, Any]) -> str:
    result = json.loads(event["result"] or "{}")
    arguments = json.loads(event["arguments"] or "{}")
    if event["tool"] == "segment_text":
        where = f" on slice {arguments['slice']}" if "slice" in arguments else ""
        return f"Prompted the segmenter with “{arguments.get('text')}”{where}: {_amount(result)}."
    if prompt := {"segment_box": "a box", "segment_points": "points"}.get(event["tool"]):
        return f"Prompted the segmenter with {prompt}: {_amount(result)}."
    if event["tool"] == "measure":
        return _of_measure(arguments, result)
    if event["tool"] == "accept":
        accepted = " and ".join(f"mask {one['mask']}{_objects(one.get('objects'))}" for one in arguments["masks"])
        return f"Accepted {accepted} as the answer."
    if event["tool"] == "report_absent":
        return "Reported the structure as absent."
    if event["tool"] == "look":
        over = f", mask {arguments['mask']} outlined" if "mask" in arguments else ""
        part = ", cropped" if "box" in arguments else ""
        return f"Looked at slice {arguments['slice']}{over}{part}."
    return f"{event['text']!s}."


def _objects(numbers: Sequence[int] | None) -> str:
    return "" if numbers is None else f" (objects {', '.join(map(str, numbers))})"


def _of_measure(arguments: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    one = f", object {arguments['object']}" if "object" in arguments else ""
    amount = _amount({key: value for key, value in result.items() if key != "mask"})
    bright = f", mean intensity {result['intensity']['mean']:g}" if result.get("intensity") else ""
    return f"Measured mask {arguments['mask']}{one}: {amount}, side {result.get('side') or 'unknown'}{bright}."


def _amount(result: Mapping[str, Any]) -> str:
    count = result.get("count", 0)
    if not count:
        return "nothing was drawn"
    size = f", {result['volume_ml']} ml" if "volume_ml" in result else f", {result.get('voxels', '?')} voxels"
    return f"{count} object{'s' if count != 1 else ''}{size}" + (
        f" (mask {result['mask']})" if "mask" in result else ""
    )


def _safe(line: str) -> str:
    """Escape HTML and Markdown in text of models and requests."""
    escaped = html.escape(line, quote=False)
    for sign in "\\`*_{}[]<>#|$~:!":
        escaped = escaped.replace(sign, f"\\{sign}")
    return escaped
