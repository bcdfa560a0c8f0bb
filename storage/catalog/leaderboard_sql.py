"""SQL of `leaderboard`, `history`, `agreement` and `inter_rater`.

Every mean comes with its denominator; raters are compared on the current cases.
"""

from medsam3_core.metrics.protocol_version import PROTOCOL_VERSION
from medsam3_core.metrics.table import METRICS, Metric
from storage.catalog.groups_sql import GROUP_COLUMNS, GROUP_COUNTS, same_group, score_group_ctes
from storage.catalog.relations import CatalogSources, quoted
from storage.catalog.scores_sql import newest_sql

_COUNTS_SHOWN = (("g", "scored"), ("g", "failed"), ("p", "pending"), *(("g", count) for count in GROUP_COUNTS[2:]))


def leaderboard_of_runs_sql(sources: CatalogSources) -> str:
    """One row per run, split, structure and rater, with `superseded` for runs that a newer one has replaced."""
    keys = ", ".join(GROUP_COLUMNS)
    without_worst = [metric.name for metric in METRICS.values() if not metric.higher_is_better]
    return f"""
WITH {score_group_ctes(sources)},
pending_groups AS MATERIALIZED ({_pending_sql()}),
all_keys AS (SELECT {keys} FROM groups UNION SELECT {keys} FROM pending_groups)
SELECT runs.cohort, k.split, runs.weights, runs.weights_version, runs.prompt, runs.settings_id, k.structure,
    coalesce(g.scored + g.failed, 0) + coalesce(p.pending, 0) AS planned,
    {", ".join(f"coalesce({table}.{count}, 0) AS {count}" for table, count in _COUNTS_SHOWN)},
    {", ".join(_metric_columns(metric) for metric in METRICS.values())},
    facts.seconds_per_case, k.rater, runs.privileged, g.distance_unit, coalesce(g.missed, 0) AS failed_present,
    {", ".join(f"coalesce(g.{name}_n, 0) AS {name}_n" for name in without_worst)}, k.run_id, runs.superseded
FROM all_keys AS k
JOIN internal.numbered_runs AS runs ON runs.run_id = k.run_id
LEFT JOIN groups AS g ON {same_group("g", "k")}
LEFT JOIN pending_groups AS p ON {same_group("p", "k")}
LEFT JOIN run_facts AS facts ON facts.run_id = k.run_id
"""


def leaderboard_sql() -> str:
    """The newest run of each key, best Dice first."""
    return "SELECT * EXCLUDE (superseded) FROM leaderboard_of_runs WHERE NOT superseded"


def secondary_raters_sql() -> str:
    """Raters of each cohort except the primary one, who is the first rater of most of its cases.

    Means without these raters count every case once, also failed cases without a reference, which have no rater.
    """
    return """
SELECT cohort, rater FROM (SELECT cohort, unnest(raters) AS rater, raters[1] AS first_rater FROM cases)
GROUP BY cohort, rater
QUALIFY row_number() OVER (PARTITION BY cohort ORDER BY count(*) FILTER (rater = first_rater) DESC, rater) > 1"""


def history_sql() -> str:
    """One row per weights version, cohort, split, prompt and settings, over structures, against the primary rater."""
    return """
SELECT r.weights, r.weights_version, r.cohort, g.split, r.prompt, min(g.first_finished) AS first_finished,
    max(g.last_finished) AS last_finished, sum(g.dice_mean * g.dice_n) / nullif(sum(g.dice_n), 0) AS dice_mean,
    coalesce(sum(g.dice_mean * g.dice_n), 0) / nullif(sum(g.dice_n) + sum(g.missed), 0) AS dice_mean_failures_as_zero,
    sum(g.dice_n)::BIGINT AS n, sum(g.failed)::BIGINT AS failed, sum(g.missed)::BIGINT AS failed_present,
    r.settings_id, r.privileged
FROM internal.score_groups AS g
JOIN internal.numbered_runs AS r ON r.run_id = g.run_id AND NOT r.superseded
ANTI JOIN internal.secondary_raters AS other ON other.cohort = r.cohort AND other.rater = g.rater
GROUP BY r.weights, r.weights_version, r.cohort, g.split, r.prompt, r.settings_id, r.privileged
"""


def _pending_sql() -> str:
    """Planned rows without a fresh score; the plan is counted by group only for runs whose totals differ."""
    return f"""
    WITH finished AS (SELECT run_id, sum(scored + failed) AS n FROM groups GROUP BY run_id),
    unfinished AS MATERIALIZED (
        SELECT planned.run_id FROM (SELECT run_id, count(rater) AS n FROM plan GROUP BY run_id) AS planned
        LEFT JOIN finished ON finished.run_id = planned.run_id WHERE planned.n <> coalesce(finished.n, 0)
    ),
    k AS (
        SELECT p.run_id, c.split, p.structure, p.rater, count(*) AS n
        FROM (SELECT * FROM plan WHERE rater IS NOT NULL AND run_id IN (SELECT run_id FROM unfinished)) AS p
        JOIN runs AS r ON r.run_id = p.run_id
        LEFT JOIN cases AS c ON c.cohort = r.cohort AND c.case_id = p.case_id
        ANTI JOIN (SELECT * FROM attempts WHERE status = 'segmented') AS o
            ON o.run_id = p.run_id AND o.case_id = p.case_id
        GROUP BY ALL
    )
    SELECT {", ".join(f"k.{name}" for name in GROUP_COLUMNS)},
        greatest(k.n - coalesce(g.scored + g.failed, 0), 0) AS pending
    FROM k LEFT JOIN groups AS g ON {same_group("g", "k")}"""


def _metric_columns(metric: Metric) -> str:
    name = metric.name
    columns = [f"g.{name}_mean"]
    if metric.higher_is_better:
        columns.append(f"{_failures_as_zero(metric)} AS {name}_mean_failures_as_zero")
    columns += [
        f"g.{name}_median",
        f"g.{name}_centre - g.{name}_half AS {name}_low",
        f"g.{name}_centre + g.{name}_half AS {name}_high",
    ]
    return ", ".join(columns)


def _failures_as_zero(metric: Metric) -> str:
    """Mean with zeros for the missed rows; a metric that may not apply to the structure needs at least one value.

    If its number of values is NULL, the metric is undefined in this group (two units).
    """
    values = f"g.{metric.name}_n"
    mean = f"coalesce(g.{metric.name}_mean * {values}, 0) / nullif({values} + g.missed, 0)"
    return mean if metric.always_defined else f"CASE WHEN {values} > 0 THEN {mean} END"


def agreement_sql(sources: CatalogSources) -> str:
    """Rows of the current digest and protocol, with the current split and patient of the case."""
    current = f"""
SELECT a.*, c.split, c.patient_id FROM ({sources.agreement}) AS a
JOIN cases AS c ON c.cohort = a.cohort AND c.case_id = a.case_id AND c.case_digest IS NOT DISTINCT FROM a.case_digest
WHERE a.protocol = {quoted(PROTOCOL_VERSION)}"""
    return newest_sql("cohort, case_id, structure, rater, other_rater", "case_digest", current)


def inter_rater_sql() -> str:
    """Means over cases in which a rater of the pair drew the structure.

    Values that need one unit, and the unit, are NULL over cases in mm and in px. Metrics added later come last.
    """

    def of_one_unit(sql: str) -> str:
        return f"CASE WHEN count(DISTINCT distance_unit) <= 1 THEN {sql} END"

    def mean(metric: Metric) -> str:
        average = f"avg({metric.name})"
        return f"{of_one_unit(average) if metric.needs_one_unit else average} AS {metric.name}_mean"

    first = ("nsd", "hd95", "cldice")
    later = [metric for metric in METRICS.values() if metric.symmetric and metric.name not in ("dice", *first)]
    return f"""
SELECT cohort, split, structure, rater, other_rater, count(dice) AS cases, count(DISTINCT patient_id) AS patients,
    avg(dice) AS dice_mean, median(dice) AS dice_median, min(dice) AS dice_min, max(dice) AS dice_max,
    {", ".join(mean(METRICS[name]) for name in first)}, {of_one_unit("any_value(distance_unit)")} AS distance_unit,
    {", ".join(mean(metric) for metric in later)}
FROM agreement WHERE "empty" <> 'both' GROUP BY ALL"""
