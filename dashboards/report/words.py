"""Sentences that summarise the leaderboard, made from its numbers alone."""

from collections.abc import Sequence

import pandas as pd

from dashboards.figures.figures import UNTRAINED_NOTE, series_name
from storage.comparisons.comparison import Comparison
from storage.comparisons.words import comparison_sentences


def summary_sentences(
    board: pd.DataFrame, cohorts: pd.DataFrame, failures: pd.DataFrame, comparisons: Sequence[Comparison]
) -> list[str]:
    """Summary of the report: extent, best weights per cohort, comparison, hardest structure, caveats."""
    if board.empty:
        return ["There are no scores yet."]
    sentences = [_extent(board, cohorts)]
    sentences += [_leader(name, part) for name, part in board.groupby("cohort", sort=False)]
    sentences += [" ".join(comparison_sentences(item)) for item in comparisons[:1]]
    sentences += _weakest(board)
    sentences += _caveats(board, failures)
    return sentences


def _extent(board: pd.DataFrame, cohorts: pd.DataFrame) -> str:
    shown = cohorts[cohorts["cohort"].isin(board["cohort"])]
    pieces = [f"{row.cohort} ({row.accepted:,} cases, {row.patients:,} patients)" for row in shown.itertuples()]
    planned, scored = int(board["planned"].sum()), int(board["scored"].sum())
    weights, prompts = board["label"].nunique(), _count(board["prompt"].nunique(), "prompt policy")
    extent = f"{_count(weights, 'set')} of weights with {prompts} on {', '.join(pieces)}"
    return f"{extent}: {scored:,} of {planned:,} planned scores exist."


def _leader(cohort: object, rows: pd.DataFrame) -> str:
    """Sentence on the best weights of a cohort, by mean Dice over structures."""
    keys = ["label", "prompt", "settings", "privileged"]
    means = rows.groupby(keys, sort=False)["dice_mean"].mean().dropna().sort_values(ascending=False)
    if means.empty:
        return f"No structure of {cohort} has a Dice value."
    names = [series_name(label, prompt, settings) for label, prompt, settings, _ in means.index]
    sentence = f"On {cohort}, {names[0]} leads with a mean Dice of {means.iloc[0]:.3f}"
    if len(names) > 1:
        sentence += f", followed by {names[1]} with {means.iloc[1]:.3f}"
    privileged = means.index.get_level_values("privileged").to_numpy(bool)
    if privileged[0]:
        sentence += ". Its prompts are derived from the reference"
        without = means[~privileged]
        if len(without):
            name = names[int(privileged.argmin())]
            sentence += f"; the best without such prompts is {name} with {without.iloc[0]:.3f}"
        else:
            sentence += ", which is not available in deployment"
    return sentence + "."


def _weakest(board: pd.DataFrame) -> list[str]:
    best = board.groupby(["cohort", "structure"])["dice_mean"].max().dropna().sort_values()
    if len(best) < 2:
        return []
    (cohort, structure), value = best.index[0], best.iloc[0]
    return [f"The hardest structure is {structure} ({cohort}): no weights exceed a mean Dice of {value:.3f}."]


def _caveats(board: pd.DataFrame, failures: pd.DataFrame) -> list[str]:
    caveats = []
    if len(failures):
        verb = "has" if len(failures) == 1 else "have"
        caveats.append(f"{_count(len(failures), 'result')} {verb} no score; see Failures below.")
    if pending := int(board["pending"].sum()):
        caveats.append(f"{pending:,} planned scores are pending.")
    if trained := int(board["in_training"].sum()):
        caveats.append(f"{trained:,} scores on training cases are excluded from all means.")
    if any("untrained" in label for label in board["label"]):
        caveats.append(UNTRAINED_NOTE)
    return caveats


def _count(number: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun if number == 1 else plural}"
