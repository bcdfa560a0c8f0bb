"""Thumbnails of the best and worst cases of each cohort, by the best run."""

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd

from dashboards.figures.figures import series_name
from dashboards.figures.style import REFERENCE_COLOUR, colour_of
from dashboards.figures.thumbnails import case_thumbnail
from medsam3_core.errors import Medsam3Error
from storage.catalog.queries import pages
from storage.store.layout import StoreLayout

_EACH, _MAX_COHORTS = 5, 12


def case_gallery(store: StoreLayout, board: pd.DataFrame, colours: Mapping[str, str]) -> str:
    """HTML with one row of the worst and one of the best cases per cohort."""
    cases = pages.accepted_cases(store)
    parts = []
    for cohort, rows in list(board.groupby("cohort", sort=False))[:_MAX_COHORTS]:
        leader = _leading_run(rows)
        if leader is None:
            continue
        scores = pages.case_scores(store, str(cohort))
        scores = scores[
            (scores["run_id"] == leader["run_id"]) & scores["dice"].notna() & (scores["empty"] != "reference")
        ]
        ndim = cases[cases["cohort"] == cohort].set_index("case_id")["ndim"]
        name = series_name(leader["label"], leader["prompt"], leader["settings"])
        legend = (
            f"<span class='line' style='background:{REFERENCE_COLOUR}'></span> reference "
            f"<span class='line' style='background:{colour_of(leader['label'], colours)}'></span> {html.escape(name)}"
        )
        parts.append(f"<h3>{html.escape(str(cohort))}</h3><p class='muted'>{legend}</p>")
        for title, chosen in (("Worst", scores.head(_EACH)), ("Best", scores.tail(_EACH)[::-1])):
            shown = "".join(_figure(store, str(cohort), row, ndim, colours) for row in chosen.to_dict("records"))
            parts.append(f"<h4>{title}</h4><div class='gallery'>{shown}</div>")
    return "".join(parts) or "<p>No case has a score.</p>"


def _leading_run(rows: pd.DataFrame) -> dict[str, Any] | None:
    """Run with the highest mean Dice over structures; untrained weights only if there are no others."""
    means = rows.groupby(["run_id", "label", "prompt", "settings"])["dice_mean"].mean().dropna().reset_index()
    trained = means[~means["label"].str.contains("untrained")]
    chosen = trained if len(trained) else means
    if chosen.empty:
        return None
    return {str(name): value for name, value in chosen.sort_values("dice_mean").iloc[-1].items()}


def _figure(
    store: StoreLayout, cohort: str, row: Mapping[Any, Any], ndim: pd.Series, colours: Mapping[str, str]
) -> str:
    what, case = f"{html.escape(row['structure'])}, Dice {row['dice']:.3f}", html.escape(row["case_id"])
    flat = int(ndim[row["case_id"]]) == 2
    try:
        uri, z = case_thumbnail(
            store, cohort, row["case_id"], 2 if flat else 3, row["run_id"], row["structure"], row["rater"],
            colour_of(row["label"], colours),
        )  # fmt: skip
        picture, where = f"<img alt='{what}' src='{uri}'>", "" if flat else f", slice {z}"
    except (Medsam3Error, KeyError) as error:
        picture, where = f"<div class='gone'>no picture: {html.escape(str(error)[:120])}</div>", ""
    return f"<figure>{picture}<figcaption>{what}<br><span>{case}{where}</span></figcaption></figure>"
