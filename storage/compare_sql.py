"""SQL of the table macro `compare(base, new)`: the rows of two weights side by side, paired by all but the weights."""

from storage.catalog_sources import CatalogSources
from storage.metric_columns import METRICS
from storage.scores_sql import current_attempts_sql, fresh_scores_sql

_CARRIED = (
    *("cohort", "split", "case_id", "patient_id", "rater", "structure", "prompt", "prompt_id", "settings_id"),
    *("status", "in_training", "empty", "distance_unit", "run_id", "pair_key"),
)


def compare_macro_sql(sources: CatalogSources) -> str:
    """The statement that makes the macro; `base` and `new` are `NAME` (its latest version with a run) or `NAME@N`.

    Rows are paired by cohort, case, prompt_id and settings_id (one number, `pair_key`), structure and rater.
    """
    others = ", ".join(f"b.{metric} AS base_{metric}, n.{metric} AS new_{metric}" for metric in METRICS[1:])
    return f"""
CREATE OR REPLACE MACRO compare(base, new) AS TABLE
WITH base_runs AS MATERIALIZED ({_runs_of("base")}), new_runs AS MATERIALIZED ({_runs_of("new")}),
wanted AS (SELECT run_id FROM base_runs UNION SELECT run_id FROM new_runs),
attempts AS MATERIALIZED (
    SELECT a.*, dense_rank() OVER (ORDER BY r.cohort, a.case_id, r.prompt_id, r.settings_id) AS pair_key
    FROM ({current_attempts_sql(sources, of_runs="wanted")}) AS a JOIN runs AS r ON r.run_id = a.run_id
),
fresh AS NOT MATERIALIZED ({fresh_scores_sql(sources, attempts="attempts", extra=("pair_key",))}),
b AS ({_rows_of("base", "base_runs")}), n AS ({_rows_of("new", "new_runs")})
SELECT b.cohort, b.split, b.case_id, b.patient_id, b.rater, b.structure, b.prompt, b.prompt_id, b.settings_id,
    b.status AS base_status, n.status AS new_status,
    coalesce(b.in_training, false) OR coalesce(n.in_training, false) AS in_training,
    b.dice AS base_dice, n.dice AS new_dice, n.dice - b.dice AS difference_dice, {others},
    b."empty" AS base_empty, n."empty" AS new_empty, b.distance_unit, b.run_id AS base_run_id, n.run_id AS new_run_id
FROM b JOIN n ON b.pair_key = n.pair_key AND b.structure = n.structure AND b.rater IS NOT DISTINCT FROM n.rater
"""


def _runs_of(weights: str) -> str:
    """The newest run per prompts and settings of the weights named by the parameter `weights`."""
    name, version = _name(weights), f"nullif(split_part({weights}, '@', 2), '')"
    return f"""
    SELECT run_id FROM internal.numbered_runs AS r
    WHERE r.weights = {name} AND NOT r.superseded_of_prompt_id AND r.weights_version = coalesce(
        {version}::INTEGER, (SELECT max(latest.weights_version) FROM runs AS latest WHERE latest.weights = {name})
    )"""


def _rows_of(weights: str, runs: str) -> str:
    """Fresh scores of these runs; the name of the weights again, for it lets the engine skip files unread."""
    columns = ", ".join(f's."{column}"' for column in (*_CARRIED, *METRICS))
    return f"""
    SELECT {columns} FROM fresh AS s WHERE s.weights = {_name(weights)} AND s.run_id IN (SELECT run_id FROM {runs})"""


def _name(weights: str) -> str:
    return f"split_part({weights}, '@', 1)"
