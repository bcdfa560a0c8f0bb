"""`medsam3 report`: all results of a store as one self-contained HTML file."""

import itertools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from dashboards.figures import protocol_effect
from dashboards.figures.comparison import difference_figure, forest_figure, paired_scatter
from dashboards.figures.figures import cost_figure, leaderboard_figure
from dashboards.figures.style import weights_colours
from dashboards.report import html
from dashboards.report.cases import case_gallery
from dashboards.report.words import summary_sentences
from medsam3_core.errors import UsageError
from storage.catalog.queries import pages
from storage.comparisons.comparison import Comparison, ComparisonRequest, compare_weights
from storage.comparisons.words import comparison_notes, comparison_sentences
from storage.store.atomic import read_json, replacing
from storage.store.layout import StoreLayout

_MAX_COMPARISONS = 4
_METRIC = "dice"


def write_report(store: StoreLayout, out: Path) -> Path:
    """Write the report of all current runs.

    Raises:
        UsageError: If no run has a score yet.
        StoreError: If a table cannot be read or the file cannot be written.
    """
    board = pages.leaderboard(store)
    if board.empty:
        msg = f"store {store.root} has no scores to report; run medsam3 benchmark first"
        raise UsageError(msg)
    colours = weights_colours(pages.weights_labels(store))
    failures, cohorts, runs = pages.failures(store), pages.cohorts(store), pages.runs(store)
    comparisons = list(_comparisons(store, board))
    body = [
        html.section("Summary", html.notes(summary_sentences(board, cohorts, failures, comparisons), tag="p")),
        *_leaderboard_sections(store, board, colours),
        *(_comparison_section(item, colours) for item in comparisons),
        html.section("Best and worst cases", case_gallery(store, board, colours)),
        html.section("Failures", html.failure_table(failures, pages.pending(store))),
        html.section("Protocol and digests", html.protocol_table(runs, cohorts, _case_lists(store, cohorts))),
    ]
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = html.page(f"medsam3 report: {', '.join(dict.fromkeys(board['cohort']))}", f"Generated {made}", body)
    with replacing(out) as scratch:
        scratch.write_text(text, encoding="utf-8")
    return out


def _leaderboard_sections(store: StoreLayout, board: pd.DataFrame, colours: Mapping[str, str]) -> Iterator[str]:
    steps = {cohort: pages.protocol_steps(store, cohort) for cohort in dict.fromkeys(board["cohort"])}
    for (cohort, split), rows in board.groupby(["cohort", "split"], sort=False, dropna=False):
        name = f"Leaderboard: {cohort}, {f'split {split}' if isinstance(split, str) else 'all cases'}"
        yield html.section(
            name,
            html.plot(leaderboard_figure(rows, _METRIC, colours)),
            html.notes(["Dots: mean over cases with the structure; bars: 95 % t interval over patients."]),
            html.leaderboard_table(rows, colours),
            "<h3>Quality against cost</h3>",
            html.plot(cost_figure(rows, _METRIC, colours)),
            *_protocol_parts(protocol_effect.steps_of_split(steps[cohort], split), str(cohort), colours),
        )


def _protocol_parts(steps: pd.DataFrame, cohort: str, colours: Mapping[str, str]) -> Iterator[str]:
    """Effect of the protocol on the numbers above; nothing if no run can be scored by the published protocol."""
    if steps.empty:
        return
    yield "<h3>Effect of the protocol</h3>"
    yield html.notes(protocol_effect.protocol_sentences(steps, cohort), tag="p")
    yield html.plot(protocol_effect.protocol_figure(steps, colours))
    yield html.protocol_steps_table(steps, colours)
    missing = [] if steps["published"].notna().all() else [protocol_effect.NO_PRESET_RUN]
    yield html.notes([protocol_effect.EXPLAINED, *missing])


def _comparisons(store: StoreLayout, board: pd.DataFrame) -> Iterator[Comparison]:
    """The best weights as NEW against each of the others, best first, if they have runs in common."""
    trained = board[~board["label"].str.contains("untrained")]
    ranked = trained.groupby("label")["dice_mean"].mean().sort_values(ascending=False).index.tolist()
    if len(ranked) < 2:
        ranked += [label for label in dict.fromkeys(board["label"]) if label not in ranked]
    found = (_compare(store, base, ranked[0]) for base in ranked[1:])
    yield from itertools.islice((item for item in found if item is not None), _MAX_COMPARISONS)


def _compare(store: StoreLayout, base: str, new: str) -> Comparison | None:
    """Comparison of two weights, None if they have no runs in common."""
    base, new = (label if "@" in label else f"{label}@1" for label in (base, new))
    try:
        return compare_weights(store, ComparisonRequest(base, new, metrics=(_METRIC,)))
    except UsageError:
        return None


def _comparison_section(comparison: Comparison, colours: Mapping[str, str]) -> str:
    base, new = (name.removesuffix("@1") for name in (comparison.request.base, comparison.request.new))
    parts: list[str] = [html.notes(comparison_sentences(comparison), tag="p")]
    for cohort, pairs in comparison.pairs.groupby("cohort", sort=False):
        items = [item for item in comparison.structures if item.cohort == cohort]
        parts.append(f"<h3>{cohort}</h3>")
        for prompt in dict.fromkeys(item.prompt for item in items):
            chosen = [item for item in items if item.prompt == prompt]
            parts.append(f"<p class='muted'>prompt {prompt}</p>")
            parts.append(html.plot(forest_figure(chosen, base, new, _METRIC, colours)))
        parts.append("<div class='two'>")
        parts.append(html.plot(paired_scatter(pairs, base, new, _METRIC, colours)))
        parts.append(html.plot(difference_figure(pairs, base, new, _METRIC, colours)))
        parts.append("</div>")
    return html.section(f"Comparison: {new} against {base}", *parts, html.notes(comparison_notes(comparison)))


def _case_lists(store: StoreLayout, cohorts: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Digest of the case list and licence of every cohort."""
    found = {}
    for cohort in cohorts["cohort"]:
        path = store.cohort_json(cohort)
        facts = read_json(path) if path.exists() else {}
        found[cohort] = {key: str(facts.get(key, "")) for key in ("case_list_digest", "licence")}
    return found
