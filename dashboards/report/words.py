"""What the leaderboard says, in sentences made from its numbers alone."""

from collections.abc import Sequence

import pandas as pd

from dashboards.figures.figures import series_name
from storage.comparisons.comparison import Comparison
from storage.comparisons.words import comparison_sentences


def summary_sentences(
    board: pd.DataFrame, cohorts: pd.DataFrame, failures: pd.DataFrame, comparisons: Sequence[Comparison]
) -> list[str]:
    """The report's first paragraph: what was run, who leads and by how much, what failed, what is only a prompt."""
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
    pieces = [f"{row.cohort} ({row.accepted:,} cases of {row.patients:,} patients)" for row in shown.itertuples()]
    planned, scored = int(board["planned"].sum()), int(board["scored"].sum())
    weights, prompts = board["label"].nunique(), _count(board["prompt"].nunique(), "prompt policy")
    extent = f"{_count(weights, 'set')} of weights under {prompts} on {', '.join(pieces)}"
    return f"{extent}: {scored:,} of {planned:,} planned scores exist."


def _leader(cohort: object, rows: pd.DataFrame) -> str:
    """Mean Dice over structures, each structure counted once."""
    keys = ["label", "prompt", "settings", "privileged"]
    means = rows.groupby(keys, sort=False)["dice_mean"].mean().dropna().sort_values(ascending=False)
    if means.empty:
        return f"On {cohort} no structure has a Dice."
    (label, prompt, settings, privileged), best = means.index[0], means.iloc[0]
    told = f"On {cohort}, {series_name(label, prompt, settings, None)} leads with a mean Dice of {best:.3f}"
    if len(means) > 1:
        second = means.index[1]
        told += f", before {series_name(second[0], second[1], second[2], None)} with {means.iloc[1]:.3f}"
    free = means[[not index[3] for index in means.index]]
    if privileged and len(free):
        name = free.index[0]
        told += (
            f". Its prompts are made from the reference; the best without that help is "
            f"{series_name(name[0], name[1], name[2], None)} with {free.iloc[0]:.3f}"
        )
    elif privileged:
        told += ". Its prompts are made from the reference, which no deployment has"
    return told + "."


def _weakest(board: pd.DataFrame) -> list[str]:
    best = board.groupby(["cohort", "structure"])["dice_mean"].max().dropna().sort_values()
    if len(best) < 2:
        return []
    (cohort, structure), value = best.index[0], best.iloc[0]
    return [f"Hardest for all is {structure} ({cohort}): no weights exceed a mean Dice of {value:.3f}."]


def _caveats(board: pd.DataFrame, failures: pd.DataFrame) -> list[str]:
    told = []
    if len(failures):
        told.append(f"{_count(len(failures), 'case-and-run pair')} have no score and are listed below.")
    if pending := int(board["pending"].sum()):
        told.append(f"{pending:,} planned scores have not been tried yet.")
    if trained := int(board["in_training"].sum()):
        told.append(f"{trained:,} scores on training cases are counted and left out of all means.")
    if any("untrained" in label for label in board["label"]):
        told.append("Untrained weights draw at random: they prove that the path works, nothing else.")
    return told


def _count(number: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun if number == 1 else plural}"
