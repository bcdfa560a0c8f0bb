"""SQL of the catalog's views over the relations of `catalog_sources`, in the order of their creation.

Views of the schema `internal` are intermediate steps and may change; the others are the contract.
"""

import re
from collections.abc import Mapping

from storage.catalog.compare_sql import compare_macro_sql
from storage.catalog.groups_sql import score_groups_sql
from storage.catalog.leaderboard_sql import (
    agreement_sql,
    history_sql,
    inter_rater_sql,
    leaderboard_of_runs_sql,
    leaderboard_sql,
    secondary_raters_sql,
)
from storage.catalog.published_protocol_sql import published_protocol_sql
from storage.catalog.relations import CatalogSources
from storage.catalog.scores_sql import current_attempts_sql, fresh_scores_sql, newest_sql, outcomes_sql

PUBLIC_VIEWS = (
    "cases",
    "prompts",
    "runs",
    "plan",
    "outcomes",
    "scores",
    "failures",
    "leaderboard",
    "leaderboard_of_runs",
    "history",
    "medical_sam3_v1",
    "measurements",
    "traces",
    "agreement",
    "inter_rater",
)
TABLE_MACROS = ("compare",)


def catalog_statements(sources: CatalogSources, *, naming: str | None = None) -> list[str]:
    """The statements that create schema, views and macros, in this order.

    Args:
        sources: Relations of the store.
        naming: Create only the views that this text names, and those that they use: the engine binds each view when it
            is created, which for all of them takes longer than most queries. None for all.
    """
    views = {
        "cases": newest_sql("cohort, case_id", "ingested_at DESC, case_digest DESC", sources.cases),
        "prompts": _prompts_sql(sources),
        "runs": sources.runs,
        "internal.numbered_runs": _numbered_runs_sql(),
        "plan": _plan_sql(sources),
        "outcomes": outcomes_sql(sources),
        "internal.current_attempts": current_attempts_sql(sources),
        "scores": fresh_scores_sql(sources),
        "failures": _failures_sql(),
        "internal.secondary_raters": secondary_raters_sql(),
        "internal.score_groups": score_groups_sql(sources),
        "leaderboard_of_runs": leaderboard_of_runs_sql(sources),
        "leaderboard": leaderboard_sql(),
        "history": history_sql(),
        "medical_sam3_v1": published_protocol_sql(),
        "measurements": _measurements_sql(sources),
        "traces": _traces_sql(sources),
        "agreement": agreement_sql(sources),
        "inter_rater": inter_rater_sql(),
    }
    made = {name: f"CREATE OR REPLACE VIEW {name} AS {sql}" for name, sql in views.items()}
    made["compare"] = compare_macro_sql(sources)
    wanted = set(made) if naming is None else _named(naming, made)
    return ["CREATE SCHEMA IF NOT EXISTS internal", *(sql for name, sql in made.items() if name in wanted)]


def _named(text: str, made: Mapping[str, str]) -> set[str]:
    """Views named in a text, and those named in their statements; may include unused ones."""
    found: set[str] = set()
    texts = [text]
    while texts:
        words = set(re.findall(r"\w+", texts.pop().lower()))
        new = {name for name in made if name.removeprefix("internal.") in words} - found
        found |= new
        texts += [made[name] for name in new]
    return found


def _prompts_sql(sources: CatalogSources) -> str:
    return f"""
SELECT DISTINCT p.* FROM ({sources.prompts}) AS p
SEMI JOIN cases AS c ON c.cohort = p.cohort AND c.case_id = p.case_id
    AND c.case_digest IS NOT DISTINCT FROM p.case_digest"""


def _measurements_sql(sources: CatalogSources) -> str:
    """Measurements of predictions that were made from the current case."""
    return f"""
SELECT DISTINCT m.* FROM ({sources.measurements}) AS m
SEMI JOIN internal.current_attempts AS o
    ON o.run_id = m.run_id AND o.case_id = m.case_id AND o.attempt = m.attempt AND o.status = 'segmented'"""


def _numbered_runs_sql() -> str:
    """Runs with two marks: a newer run has the same row of the leaderboard, or the same pairs of `compare`.

    Both occur when the inference or prompt code has changed: results of the older run are kept but not mixed in.
    """

    def newer(prompt: str) -> str:
        keys = f"weights, weights_version, cohort, {prompt}, settings_id"
        return f"row_number() OVER (PARTITION BY {keys} ORDER BY created_at DESC, run_id DESC) > 1"

    return f"SELECT *, {newer('prompt')} AS superseded, {newer('prompt_id')} AS superseded_of_prompt_id FROM runs"


def _plan_sql(sources: CatalogSources) -> str:
    newest = newest_sql("run_id, case_id, rater, structure", "planned_at DESC", sources.plan)
    return f"({sources.plan_distinct}) UNION ALL ({newest})"


def _traces_sql(sources: CatalogSources) -> str:
    """Events of the agent in the newest attempt of each case."""
    return f"""
SELECT DISTINCT ON (t.run_id, t.case_id, t.step) r.cohort, r.weights, r.prompt, t.*
FROM ({sources.traces}) AS t
SEMI JOIN internal.current_attempts AS c ON c.run_id = t.run_id AND c.case_id = t.case_id AND c.attempt = t.attempt
JOIN runs AS r ON r.run_id = t.run_id"""


def _failures_sql() -> str:
    return """
SELECT r.cohort, o.run_id, r.weights, r.prompt, o.case_id, o.status, o.reason, c.source, r.weights_version,
    o.finished_at
FROM internal.current_attempts AS o
JOIN runs AS r ON r.run_id = o.run_id
JOIN cases AS c ON c.cohort = r.cohort AND c.case_id = o.case_id
WHERE o.status NOT IN ('scored', 'segmented')
UNION ALL
SELECT cohort, NULL, NULL, NULL, case_id, status, reason, source, NULL, ingested_at
FROM cases WHERE status = 'rejected'"""
