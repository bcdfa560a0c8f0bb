"""HTML of the report: page, sections, tables. Escapes all text; plots share one copy of plotly.js."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dashboards.figures.failure_kinds import no_failure_sentence, with_kinds
from dashboards.figures.protocol_effect import STEPS
from dashboards.figures.style import ACCENT, FONT, GRID, INK, MUTED, colour_of
from medsam3_core.metrics.protocol_version import PROTOCOL_VERSION
from medsam3_core.prompts.policies import short_prompt

_MAX_FAILED_CASES = 12

_FIT = "window.addEventListener('load', () => window.dispatchEvent(new Event('resize')));"
"""Resizes the plots once the page is complete, because they are drawn while it still loads."""

_CSS = f"""
:root {{ color-scheme: light; }}
body {{ font: 15px/1.5 {FONT}; color: {INK}; background: #F5F7F9; margin: 0; }}
main {{ max-width: 1120px; margin: 0 auto; padding: 24px 20px 60px; }}
header h1 {{ font-size: 26px; margin: 8px 0 0; }} header p {{ color: {MUTED}; margin: 2px 0 18px; }}
section {{ background: white; border: 1px solid {GRID}; border-radius: 10px; padding: 14px 22px 18px; }}
section {{ margin: 0 0 18px; }}
h2 {{ font-size: 19px; margin: 6px 0 10px; color: {ACCENT}; }} h3 {{ font-size: 16px; margin: 18px 0 4px; }}
h4 {{ font-size: 13px; margin: 12px 0 6px; color: {MUTED}; text-transform: uppercase; letter-spacing: .05em; }}
p {{ margin: 0 0 8px; }} .muted, .note {{ color: {MUTED}; font-size: 13px; }}
table {{ border-collapse: collapse; font-size: 13px; width: 100%; font-variant-numeric: tabular-nums; }}
th {{ text-align: left; font-weight: 600; color: {MUTED}; border-bottom: 2px solid {GRID}; padding: 4px 8px 4px 0; }}
td {{ border-bottom: 1px solid {GRID}; padding: 4px 8px 4px 0; vertical-align: top; }}
.r {{ text-align: right; }} .wide {{ overflow-x: auto; }} code {{ font-size: 12px; word-break: break-all; }}
.dot {{ display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 6px; }}
.line {{ display: inline-block; width: 18px; height: 3px; margin: 0 6px 3px 10px; }}
.two {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 12px; }}
@media (max-width: 900px) {{ .two {{ grid-template-columns: minmax(0, 1fr); }} }}
.gallery {{ display: flex; flex-wrap: wrap; gap: 12px; }} figure {{ margin: 0; width: 196px; }}
figure img {{ width: 196px; height: 196px; object-fit: contain; background: black; border-radius: 6px; }}
.gone {{ width: 176px; height: 176px; padding: 10px; background: {GRID}; border-radius: 6px; font-size: 12px; }}
figcaption {{ font-size: 12.5px; line-height: 1.35; margin-top: 3px; }} figcaption span {{ color: {MUTED}; }}
details summary {{ cursor: pointer; color: {ACCENT}; }}
@media print {{ section {{ break-inside: avoid; }} body {{ background: white; }} }}
"""


def page(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """The whole file, with plotly.js included once."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'><link rel='icon' href='data:,'>"
        f"<title>{html.escape(title)}</title><style>{_CSS}</style><script>{get_plotlyjs()}</script></head>"
        f"<body><main><header><h1>{html.escape(title)}</h1><p>{html.escape(subtitle)}</p></header>"
        f"{''.join(sections)}</main><script>{_FIT}</script></body></html>"
    )


def section(title: str, *parts: str) -> str:
    """A card with a heading."""
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>"


def notes(sentences: Sequence[str], tag: str = "p class='note'") -> str:
    """One paragraph per sentence."""
    return "".join(f"<{tag}>{html.escape(sentence)}</{tag.split()[0]}>" for sentence in sentences)


def plot(figure: go.Figure) -> str:
    """A plot that uses the page's plotly.js."""
    config = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d", "select2d"]}
    text: str = figure.to_html(full_html=False, include_plotlyjs=False, config=config)
    return text


def leaderboard_table(rows: pd.DataFrame, colours: Mapping[str, str]) -> str:
    """Means with intervals and denominators; with a column for the rater if there are several."""
    several_raters = len(set(rows["rater"])) > 1
    header = ("structure", *(["rater"] if several_raters else []), "weights",
              "prompt", "Dice [95 %]", "failures as 0", "NSD", "HD95", "present",
              "absent, left empty", "scored / planned", "failed", "s / case")  # fmt: skip
    cells = []
    for row in rows.to_dict("records"):
        dot = f"<span class='dot' style='background:{colour_of(row['label'], colours)}'></span>"
        prompt = html.escape(short_prompt(row["prompt"])) + ("*" if row["privileged"] else "")
        settings = (
            "" if row["settings"] == "default" else f"<br><span class='muted'>{html.escape(row['settings'])}</span>"
        )
        cells.append(
            [html.escape(row["structure"]), *([html.escape(str(row["rater"]))] if several_raters else []),
             dot + html.escape(row["label"]), prompt + settings,
             _interval(row), _number(row["dice_mean_failures_as_zero"]), _number(row["nsd_mean"]),
             _number(row["hd95_mean"], ".1f", f" {row['distance_unit']}"), _whole(row["present"]),
             f"{_whole(row['absent_correct'])} of {_whole(row['absent'])}",
             f"{_whole(row['scored'])} / {_whole(row['planned'])}", _whole(row["failed"]),
             _number(row["seconds_per_case"], ".2g")]
        )  # fmt: skip
    star = notes(["* Prompts derived from the reference."]) if rows["privileged"].any() else ""
    return _table(header, cells, right_from=4 if several_raters else 3) + star


def failure_table(failures: pd.DataFrame, pending: int) -> str:
    """Failures grouped by reason, the most frequent first; a sentence if there are none."""
    if failures.empty:
        return f"<p>{no_failure_sentence(pending)}</p>"
    cells = []
    groups = sorted(with_kinds(failures).groupby(["status", "kind"]), key=lambda item: -len(item[1]))
    for (status, kind), part in groups:
        reason = kind if len(set(part["reason"])) > 1 else part["reason"].iloc[0] or kind
        names = list(dict.fromkeys(part["cohort"] + "/" + part["case_id"]))
        more = f" and {len(names) - _MAX_FAILED_CASES} more" if len(names) > _MAX_FAILED_CASES else ""
        cells.append(
            [html.escape(str(status)), html.escape(str(reason)), str(len(part)),
             html.escape(", ".join(dict.fromkeys(part["label"]))),
             html.escape(", ".join(names[:_MAX_FAILED_CASES]) + more)]
        )  # fmt: skip
    return _table(("status", "reason", "times", "weights", "cases"), cells)


def protocol_steps_table(steps: pd.DataFrame, colours: Mapping[str, str]) -> str:
    """Dice by our protocol, after each step, and as published."""
    cells = [
        [html.escape(row["structure"]),
         f"<span class='dot' style='background:{colour_of(row['label'], colours)}'></span>{html.escape(row['label'])}",
         html.escape(row["kind"]), *(_number(row[step]) for step in STEPS),
         _number(row["published"] - row["ours"], "+.3f"), _whole(row["n"])]
        for row in steps.to_dict("records")
    ]  # fmt: skip
    header = ("structure", "weights", "prompt", *STEPS.values(), "effect", "rows in the mean")
    return _table(header, cells, right_from=3)


def protocol_table(runs: pd.DataFrame, cohorts: pd.DataFrame, case_lists: Mapping[str, Mapping[str, str]]) -> str:
    """Digests of the cohorts, weights, prompts, settings and code behind the numbers."""
    lists = [
        [html.escape(row["cohort"]), str(row["accepted"]), str(row["rejected"]),
         f"<code>{html.escape(case_lists[row['cohort']]['case_list_digest'])}</code>",
         html.escape(case_lists[row["cohort"]]["licence"])]
        for row in cohorts.to_dict("records")
    ]  # fmt: skip
    cells = [
        [f"<code>{row['run_id']}</code>", html.escape(row["label"]), html.escape(row["cohort"]),
         f"{html.escape(row['prompt'])}<br><code>{row['prompt_id']}</code>",
         f"{html.escape(row['settings'])}<br><code>{row['settings_id']}</code>",
         f"<code>{row['weights_sha256']}</code>", html.escape(str(row["inference_code"])),
         f"<code>{str(row['git_commit'] or '-')[:12]}</code>"]
        for row in runs.to_dict("records")
    ]  # fmt: skip
    return (
        notes([f"Version {PROTOCOL_VERSION} of metrics and empty-mask policy. Dice is undefined and excluded if both "
               "masks are empty, and 0 if one is. Paired tests use one value per patient."])
        + _table(("cohort", "accepted", "rejected", "digest of the case list", "licence"), lists)
        + "<details><summary>All runs</summary>"
        + _table(("run", "weights", "cohort", "prompt", "settings", "SHA-256 of weights", "code", "commit"), cells)
        + "</details>"
    )  # fmt: skip


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], right_from: int | None = None) -> str:
    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=r' if right_from is not None and place >= right_from else ''}>{value}</{tag}>"
            for place, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{cells('th', header)}</tr></thead><tbody>{body}</tbody></table></div>"


def _interval(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["dice_mean"]):
        return "-"
    if pd.isna(row["dice_low"]):
        return f"{row['dice_mean']:.3f} [one patient]"
    return f"{row['dice_mean']:.3f} [{row['dice_low']:.3f} {row['dice_high']:.3f}]"


def _number(value: Any, form: str = ".3f", unit: str = "") -> str:
    return "-" if value is None or pd.isna(value) else f"{value:{form}}{unit}"


def _whole(value: Any) -> str:
    return "0" if pd.isna(value) else f"{int(value):,}"
