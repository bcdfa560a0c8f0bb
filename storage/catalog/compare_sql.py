"""SQL of the table macro `compare(base, new)`: rows of two weights side by side, equal in all but the weights."""

from medsam3_core.metrics.table import METRICS
from storage.catalog.relations import CatalogSources
from storage.catalog.scores_sql import current_attempts_sql, fresh_scores_sql

_CARRIED = (
    *("cohort", "split", "case_id", "patient_id", "rater", "structure", "prompt", "prompt_id", "settings_id"),
    *("status", "in_training", "empty", "distance_unit", "run_id", "pair_key"),
)


def compare_macro_sql(sources: CatalogSources) -> str:
    """The statement that makes the macro; `base` and `new` are `NAME` (its latest version with a run) or `NAME@N`.

    Runs are paired first (cohort, prompt_id, settings_id). If the prompt code has changed, there is a pair of each
    version of it: of equal cohort, prompt and settings, the newest pair counts. Then their cases are paired, which
    gives each pair of cases a number; the many rows are paired last, by that number, structure and rater.
    """
    others = ", ".join(f"b.{name} AS base_{name}, n.{name} AS new_{name}" for name in METRICS if name != "dice")
    return f"""
CREATE OR REPLACE MACRO compare(base, new) AS TABLE
WITH run_pairs AS MATERIALIZED (
    SELECT b.run_id AS base_run_id, n.run_id AS new_run_id, b.cohort
    FROM ({_runs_of("base")}) AS b JOIN ({_runs_of("new")}) AS n
    ON b.cohort = n.cohort AND b.prompt_id = n.prompt_id AND b.settings_id = n.settings_id
    QUALIFY row_number() OVER (
        PARTITION BY b.cohort, b.prompt, b.settings
        ORDER BY least(b.created_at, n.created_at) DESC, greatest(b.created_at, n.created_at) DESC, b.run_id, n.run_id
    ) = 1
),
wanted AS (SELECT base_run_id AS run_id FROM run_pairs UNION SELECT new_run_id FROM run_pairs),
attempts AS MATERIALIZED ({current_attempts_sql(sources, of_runs="wanted")}),
case_pairs AS MATERIALIZED (
    SELECT row_number() OVER () AS pair_key, b.case_id, b.case_digest, b.split, b.patient_id,
        b.run_id AS base_run_id, b.attempt AS base_attempt, b.is_marked AS base_is_marked,
        n.run_id AS new_run_id, n.attempt AS new_attempt, n.is_marked AS new_is_marked
    FROM run_pairs AS r
    JOIN attempts AS b ON b.run_id = r.base_run_id
    JOIN attempts AS n ON n.run_id = r.new_run_id AND n.case_id = b.case_id
),
base_attempts AS ({_attempts_of("base")}), new_attempts AS ({_attempts_of("new")}),
b AS ({_rows_of("base", sources)}), n AS ({_rows_of("new", sources)})
SELECT b.cohort, b.split, b.case_id, b.patient_id, b.rater, b.structure, b.prompt, b.prompt_id, b.settings_id,
    b.status AS base_status, n.status AS new_status,
    coalesce(b.in_training, false) OR coalesce(n.in_training, false) AS in_training,
    b.dice AS base_dice, n.dice AS new_dice, n.dice - b.dice AS difference_dice, {others},
    b."empty" AS base_empty, n."empty" AS new_empty, coalesce(b.distance_unit, n.distance_unit) AS distance_unit,
    b.run_id AS base_run_id, n.run_id AS new_run_id
FROM b JOIN n ON b.pair_key = n.pair_key AND b.structure = n.structure AND b.rater IS NOT DISTINCT FROM n.rater
"""


def _runs_of(weights: str) -> str:
    """The newest run per prompts and settings of the weights named by the parameter `weights`."""
    name, version = _name(weights), f"nullif(split_part({weights}, '@', 2), '')"
    return f"""
    SELECT r.run_id, r.cohort, r.prompt, r.prompt_id, r.settings, r.settings_id, r.created_at
    FROM internal.numbered_runs AS r
    WHERE r.weights = {name} AND NOT r.superseded_of_prompt_id AND r.weights_version = coalesce(
        {version}::INTEGER, (SELECT max(latest.weights_version) FROM runs AS latest WHERE latest.weights = {name})
    )"""


def _attempts_of(weights: str) -> str:
    """Attempts of one side that belong to a pair of cases."""
    return f"""
    SELECT {weights}_run_id AS run_id, case_id, {weights}_attempt AS attempt, case_digest, split, patient_id,
        {weights}_is_marked AS is_marked, pair_key
    FROM case_pairs"""


def _rows_of(weights: str, sources: CatalogSources) -> str:
    """Fresh scores of one side; the condition on the weights lets the engine skip files."""
    columns = ", ".join(f's."{column}"' for column in (*_CARRIED, *METRICS))
    fresh = fresh_scores_sql(sources, attempts=f"{weights}_attempts", extra=("pair_key",))
    return f"SELECT {columns} FROM ({fresh}) AS s WHERE s.weights = {_name(weights)}"


def _name(weights: str) -> str:
    return f"split_part({weights}, '@', 1)"
