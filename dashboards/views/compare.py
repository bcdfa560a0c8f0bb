"""Compare: paired results of NEW against BASE, per structure, pair and case."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from dashboards.figures.comparison import difference_figure, forest_figure, paired_scatter
from dashboards.views.parts import chart, colour_chips, colours, heading, kept, nothing_yet, pick
from medsam3_core.metrics.table import METRICS
from medsam3_core.prompts.policies import short_prompt
from storage.catalog.queries.pairs import comparable_weights
from storage.comparisons.comparison import Comparison, ComparisonRequest, StructureComparison, compare_weights
from storage.comparisons.words import comparison_notes, comparison_sentences, has_several_raters, is_tested
from storage.store.layout import StoreLayout


def show(open_case: Callable[[str, str, str], None]) -> None:
    """The page; `open_case` opens a case in the viewer."""
    heading("Compare", "Results paired by case, structure and prompt. Failures count; tests use one value per patient.")
    names = kept(_names)
    if not names:
        nothing_yet("No two weights share a cohort and a prompt yet.", "Benchmark two on the same cohort.")
        return
    base_box, new_box, cohort_box, metric_box = st.columns(4)
    base = pick("BASE", list(names), "base", base_box, format_func=_plain)
    new = pick("NEW", list(names[base]), "new", new_box, format_func=_plain)
    cohort = pick("Cohort", names[base][new], "cohort", cohort_box)
    metric = pick("Metric", list(METRICS), "metric", metric_box, format_func=lambda name: METRICS[name].label)
    with st.spinner("Comparing ..."):
        found = kept(_compare, base, new, cohort, metric)
    _show_verdict(found)
    prompts = list(dict.fromkeys((item.prompt, item.settings) for item in found.structures))
    prompt, settings = prompts[0]
    if len(prompts) > 1:
        prompt, settings = pick("Prompts and settings", prompts, "compared_prompt", format_func=_protocol)
    _show_plots(found, prompt, settings, metric)
    _show_worst(found, open_case)
    st.caption("  \n".join(comparison_notes(found)))


def _show_verdict(found: Comparison) -> None:
    sentences = comparison_sentences(found)
    if found.regressions:
        st.error(sentences[0], icon=":material/trending_down:")
    elif is_tested(found):
        st.success(sentences[0], icon=":material/check:")
    else:
        st.info(sentences[0], icon=":material/help:")
    for sentence in sentences[1:]:
        st.markdown(sentence)


def _show_plots(found: Comparison, prompt: str, settings: str, metric: str) -> None:
    base, new, shown = _plain(found.request.base), _plain(found.request.new), colours()
    colour_chips([base, new], shown)
    items = [item for item in found.structures if (item.prompt, item.settings) == (prompt, settings)]
    pairs = found.pairs[(found.pairs["prompt"] == prompt) & (found.pairs["settings"] == settings)]
    st.markdown("**Mean difference per structure** (filled: the test is conclusive)")
    chart(forest_figure(items, base, new, metric, shown), key="forest")
    _show_numbers(items, base, new)
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("**All pairs**")
        chart(paired_scatter(pairs, base, new, metric, shown), key="scatter")
    with right:
        st.markdown("**Distribution of differences**")
        chart(difference_figure(pairs, base, new, metric, shown), key="differences")


def _show_numbers(items: list[StructureComparison], base: str, new: str) -> None:
    """Table of means, interval, test and effect per structure."""
    found = [item.numbers for item in items]
    raters = [item.rater for item in items]
    table = pd.DataFrame(
        {
            "structure": [item.structure for item in items], **({"rater": raters} if len(set(raters)) > 1 else {}),
            "patients": [one.patients for one in found],
            base: [one.base_mean for one in found], new: [one.new_mean for one in found],
            "difference": [one.difference for one in found],
            "95 %": ["" if one.low is None else f"{one.low:+.3f} to {one.high:+.3f}" for one in found],
            "p (Holm)": [_p_value(item.adjusted_p) for item in items], "effect": [one.rank_biserial for one in found],
            "better / equal / worse": [f"{one.wins} / {one.ties} / {one.losses}" for one in found],
            "verdict": [str(item.verdict) for item in items],
        }
    )  # fmt: skip
    form = {name: st.column_config.NumberColumn(format="%.3f") for name in (base, new, "difference")}
    form["effect"] = st.column_config.NumberColumn("effect (rank-biserial)", format="%+.2f")
    st.dataframe(table, hide_index=True, column_config=form, height=min(38 + 35 * len(table), 420))


def _p_value(p: float | None) -> str:
    return "no test" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _show_worst(found: Comparison, open_case: Callable[[str, str, str], None]) -> None:
    if found.worst.empty:
        return
    st.markdown("**Largest losses** (select a case to view it)")
    worst = found.worst
    table = pd.DataFrame(
        {
            "case": worst["case_id"], "structure": worst["structure"],
            **({"rater": worst["rater"]} if has_several_raters(found) else {}),
            "prompt": worst["prompt"].map(short_prompt),
            "BASE": worst["base"], "NEW": worst["new"], "difference": worst["difference"],
            "status of NEW": worst["new_status"],
        }
    )  # fmt: skip
    form = {name: st.column_config.NumberColumn(format="%.3f") for name in ("BASE", "NEW", "difference")}
    event = st.dataframe(
        table, hide_index=True, column_config=form, on_select="rerun", selection_mode="single-row", key="worst"
    )
    if event.selection.rows:
        row = worst.iloc[event.selection.rows[0]]
        open_case(row["cohort"], row["case_id"], row["structure"])


def _names(store: StoreLayout) -> dict[str, dict[str, list[str]]]:
    """Cohorts that two weights share, by BASE and NEW, in either order."""
    names: dict[str, dict[str, list[str]]] = {}
    for row in comparable_weights(store).to_dict("records"):
        cohorts = row["cohorts"].split(", ")
        names.setdefault(row["base"], {})[row["new"]] = cohorts
        names.setdefault(row["new"], {})[row["base"]] = cohorts
    return names


def _compare(store: StoreLayout, base: str, new: str, cohort: str, metric: str) -> Comparison:
    return compare_weights(store, ComparisonRequest(base, new, (cohort,), None, (metric,)))


def _plain(name: str) -> str:
    return name.removesuffix("@1")


def _protocol(key: tuple[str, str]) -> str:
    prompt, settings = key
    return short_prompt(prompt) if settings == "default" else f"{short_prompt(prompt)}, {settings}"
