"""SQL of the catalog's views over the relations of `catalog_sources`, in the order in which they are made.

Views of the schema `internal` are steps on the way and may change; the others are the contract.
"""

from medsam3_core.scoring import PROTOCOL_VERSION
from storage.catalog_sources import CatalogSources, quoted
from storage.compare_sql import compare_macro_sql
from storage.leaderboard_sql import history_sql, leaderboard_of_runs_sql, leaderboard_sql

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
    "measurements",
)
TABLE_MACROS = ("compare",)


def catalog_statements(sources: CatalogSources) -> list[str]:
    """The statements that make schema, views and macros, to be run in this order."""
    views = {
        "cases": _newest("cohort, case_id", "ingested_at DESC, case_digest DESC", sources.cases),
        "prompts": _prompts_sql(sources),
        "runs": sources.runs,
        "internal.numbered_runs": _numbered_runs_sql(),
        "plan": _plan_sql(sources),
        "outcomes": _outcomes_sql(sources),
        "internal.current_attempts": _current_attempts_sql(),
        "scores": _scores_sql(sources),
        "failures": _failures_sql(),
        "leaderboard_of_runs": leaderboard_of_runs_sql(),
        "leaderboard": leaderboard_sql(),
        "history": history_sql(),
        "measurements": f"SELECT DISTINCT * FROM ({sources.measurements})",
    }
    made = [f"CREATE OR REPLACE VIEW {name} AS {sql}" for name, sql in views.items()]
    return ["CREATE SCHEMA IF NOT EXISTS internal", *made, compare_macro_sql()]


def _newest(keys: str, order: str, relation: str) -> str:
    """The first row per key in this order."""
    return f"SELECT * FROM ({relation}) QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {order}) = 1"


def _prompts_sql(sources: CatalogSources) -> str:
    return f"""
SELECT DISTINCT p.* FROM ({sources.prompts}) AS p
SEMI JOIN cases AS c ON c.cohort = p.cohort AND c.case_id = p.case_id
    AND c.case_digest IS NOT DISTINCT FROM p.case_digest"""


def _numbered_runs_sql() -> str:
    """Runs with two marks: a newer run has the same row of the leaderboard, or the same pairs of `compare`.

    Both happen when the inference or the prompt code changed: the numbers of the older run are kept but not mixed in.
    """

    def newer(prompt: str) -> str:
        keys = f"weights, weights_version, cohort, {prompt}, settings_id"
        return f"row_number() OVER (PARTITION BY {keys} ORDER BY created_at DESC, run_id DESC) > 1"

    return f"SELECT *, {newer('prompt')} AS superseded, {newer('prompt_id')} AS superseded_of_prompt_id FROM runs"


def _plan_sql(sources: CatalogSources) -> str:
    newest = _newest("run_id, case_id, rater, structure", "planned_at DESC", sources.plan)
    return f"({sources.plan_distinct}) UNION ALL ({newest})"


def _outcomes_sql(sources: CatalogSources) -> str:
    newest = "row_number() OVER (PARTITION BY run_id, case_id ORDER BY finished_at DESC, attempt DESC) = 1"
    return f'SELECT *, {newest} AS "latest" FROM ({sources.outcomes})'


def _current_attempts_sql() -> str:
    """The newest attempt per run and case, if it was made from the case as it is now."""
    return """
SELECT o.* FROM outcomes AS o
JOIN runs AS r ON r.run_id = o.run_id
JOIN cases AS c ON c.cohort = r.cohort AND c.case_id = o.case_id
WHERE o."latest" AND c.case_digest IS NOT DISTINCT FROM o.case_digest"""


def _scores_sql(sources: CatalogSources) -> str:
    """Fresh rows. Runs of several files may hold a row twice (scored again after an interruption): the newest wins."""
    keys = "run_id, case_id, rater, structure"
    return f"""
({_fresh(sources.scores_distinct)}) UNION ALL ({_newest(keys, "finished_at DESC", _fresh(sources.scores))})"""


def _fresh(relation: str) -> str:
    return f"""
SELECT s.* FROM ({relation}) AS s
SEMI JOIN internal.current_attempts AS o ON o.run_id = s.run_id AND o.case_id = s.case_id AND o.attempt = s.attempt
    AND o.case_digest IS NOT DISTINCT FROM s.case_digest
WHERE s.protocol = {quoted(PROTOCOL_VERSION)}"""


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
