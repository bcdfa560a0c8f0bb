"""SQL of `leaderboard` and `history`: means that never stand without their denominators.

A row of `scores` is *counted* when it is scored, its structure is present in the reference and the weights were not
trained on the case. Means and medians are over counted rows, intervals over the means of patients.
"""

from storage.catalog_sources import CatalogSources
from storage.scores_sql import fresh_scores_sql

METRICS = ("dice", "iou", "nsd", "precision", "recall", "specificity", "hd95", "assd", "cldice", "instance_f1", "pq")
DISTANCES = ("hd95", "assd")
"""Metrics without a worst value, which failures cannot take."""

_ALWAYS_DEFINED = ("dice", "iou", "nsd", "precision", "recall", "specificity")
_T_975 = (
    12.706204736432, 4.302652729696, 3.182446305284, 2.776445105198, 2.570581835636, 2.446911851145, 2.364624251593,
    2.306004135204, 2.262157162798, 2.228138851965, 2.200985160083, 2.178812829663, 2.160368656461, 2.144786687917,
    2.131449545559, 2.119905299221, 2.109815577833, 2.100922040241, 2.093024054408, 2.085963447266, 2.079613844728,
    2.073873067904, 2.068657610419, 2.063898561628, 2.059538552753, 2.055529438643, 2.051830516480, 2.048407141795,
    2.045229642133, 2.042272456301,
)  # fmt: skip
_Z_975 = 1.959963984540054
_KEYS = ("run_id", "split", "structure", "rater")
_COUNTS = ("scored", "failed", "in_training", "present", "absent", "absent_correct")
_COUNTS_SHOWN = (("g", "scored"), ("g", "failed"), ("p", "pending"), *(("g", count) for count in _COUNTS[2:]))


def t_quantile_sql(freedom: str) -> str:
    """SQL of the 97.5 % quantile of Student's t, which DuckDB lacks; NULL below one degree of freedom.

    A table up to 30 degrees of freedom; above, the Cornish-Fisher expansion in 1 / freedom (Abramowitz and Stegun
    26.7.5) up to its fourth term, whose error at 31 is below 1e-7.

    Args:
        freedom: SQL expression of the degrees of freedom.
    """
    z = _Z_975
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    expansion = " + ".join([repr(z), *(f"{term!r} / pow({freedom}, {n})" for n, term in enumerate(terms, start=1))])
    table = ", ".join(repr(value) for value in _T_975)
    return f"CASE WHEN {freedom} < 1 THEN NULL WHEN {freedom} <= 30 THEN [{table}][{freedom}] ELSE {expansion} END"


def leaderboard_of_runs_sql(sources: CatalogSources) -> str:
    """One row per run, split, structure and rater, with `superseded` for runs that a newer one has replaced.

    The rows are read once, into one row per patient; means come from sums and medians from lists, so that no second
    pass is needed. The engine computes nothing for the metrics that a query does not ask for.
    """
    keys = ", ".join(_KEYS)
    return f"""
WITH current AS MATERIALIZED (
    SELECT *, dense_rank() OVER (ORDER BY run_id, split, patient_id) AS patient_key FROM internal.current_attempts
),
patient_keys AS (SELECT DISTINCT patient_key, run_id, split FROM current),
fresh AS NOT MATERIALIZED ({fresh_scores_sql(sources, attempts="current", extra=("patient_key",))}),
scored_groups AS MATERIALIZED (
    SELECT {keys}, {", ".join(f"sum({count})::BIGINT AS {count}" for count in _COUNTS)},
        any_value(distance_unit) AS distance_unit, {", ".join(_group_columns(m) for m in METRICS)}
    FROM ({_patients_sql("fresh")}) JOIN patient_keys USING (patient_key) GROUP BY {keys}
),
pending_groups AS MATERIALIZED ({_pending_sql()}),
all_keys AS (SELECT {keys} FROM scored_groups UNION SELECT {keys} FROM pending_groups),
missed AS ({_missed_sql("fresh")}),
seconds AS (
    SELECT run_id, avg({_seconds_sql()}) AS seconds_per_case
    FROM ({sources.outcomes}) SEMI JOIN current USING (run_id, case_id, attempt)
    WHERE status IN ('scored', 'segmented') GROUP BY run_id
)
SELECT runs.cohort, k.split, runs.weights, runs.weights_version, runs.prompt, runs.settings_id, k.structure,
    coalesce(g.scored + g.failed, 0) + coalesce(p.pending, 0) AS planned,
    {", ".join(f"coalesce({table}.{count}, 0) AS {count}" for table, count in _COUNTS_SHOWN)},
    {", ".join(_metric_columns(m) for m in METRICS)},
    seconds.seconds_per_case, k.rater, runs.privileged, g.distance_unit, coalesce(m.missed, 0) AS failed_present,
    {", ".join(f"coalesce(g.{m}_n, 0) AS {m}_n" for m in DISTANCES)}, k.run_id, runs.superseded
FROM all_keys AS k
JOIN internal.numbered_runs AS runs ON runs.run_id = k.run_id
LEFT JOIN scored_groups AS g ON {_same_keys("g")}
LEFT JOIN pending_groups AS p ON {_same_keys("p")}
LEFT JOIN missed AS m ON {_same_keys("m")}
LEFT JOIN seconds ON seconds.run_id = k.run_id
"""


def leaderboard_sql() -> str:
    """The newest run of each key, best Dice first."""
    return "SELECT * EXCLUDE (superseded) FROM leaderboard_of_runs WHERE NOT superseded"


def history_sql() -> str:
    """One row per weights version, cohort, prompt and settings, over all structures."""
    return f"""
SELECT r.weights, r.weights_version, r.cohort, r.prompt, min(finished_at) AS first_finished,
    max(finished_at) AS last_finished, avg(s.dice) AS dice_mean, count(s.dice) AS n,
    count(*) FILTER (s.status <> 'scored') AS failed, r.settings_id, r.privileged
FROM ({_counted_scores_sql("scores")}) AS s JOIN internal.numbered_runs AS r ON r.run_id = s.run_id AND NOT r.superseded
GROUP BY r.weights, r.weights_version, r.cohort, r.prompt, r.settings_id, r.privileged
"""


def _counted_scores_sql(scores: str) -> str:
    """Fresh scores whose metrics are NULL unless the row is counted."""
    metrics = ", ".join(f"CASE WHEN counted THEN {m} END AS {m}" for m in METRICS)
    return f"""
    SELECT * EXCLUDE ({", ".join(METRICS)}), {metrics}
    FROM (
        SELECT *, coalesce(in_training, false) AS trained,
            status = 'scored' AND NOT coalesce(in_training, false) AND "empty" IN ('none', 'prediction') AS counted,
            status = 'scored' AND NOT coalesce(in_training, false) AND "empty" IN ('both', 'reference') AS is_absent
        FROM {scores}
    )"""


def _patients_sql(scores: str) -> str:
    """Counts, and sum, number and list of each metric, per patient (a number, which groups faster than three texts)."""
    lists = ", ".join(
        f"sum({m}) AS {m}_sum, count({m}) AS {m}_n, list({m}) FILTER ({m} IS NOT NULL) AS {m}_list" for m in METRICS
    )
    return f"""
    SELECT patient_key, structure, rater,
        count(*) FILTER (status = 'scored') AS scored,
        count(*) FILTER (status <> 'scored') AS failed,
        count(*) FILTER (trained) AS in_training,
        count(*) FILTER (counted) AS present,
        count(*) FILTER (is_absent) AS absent,
        count(*) FILTER (is_absent AND "empty" = 'both') AS absent_correct,
        any_value(distance_unit) AS distance_unit, {lists}
    FROM ({_counted_scores_sql(scores)}) GROUP BY patient_key, structure, rater"""


def _pending_sql() -> str:
    """Planned rows without a fresh score: the plan is counted by group only for runs whose numbers differ."""
    return f"""
    WITH finished AS (SELECT run_id, sum(scored + failed) AS n FROM scored_groups GROUP BY run_id),
    unfinished AS MATERIALIZED (
        SELECT planned.run_id FROM (SELECT run_id, count(*) AS n FROM plan GROUP BY run_id) AS planned
        LEFT JOIN finished ON finished.run_id = planned.run_id WHERE planned.n <> coalesce(finished.n, 0)
    ),
    k AS (
        SELECT p.run_id, c.split, p.structure, p.rater, count(*) AS n
        FROM (SELECT * FROM plan WHERE run_id IN (SELECT run_id FROM unfinished)) AS p
        JOIN runs AS r ON r.run_id = p.run_id
        LEFT JOIN cases AS c ON c.cohort = r.cohort AND c.case_id = p.case_id
        ANTI JOIN (SELECT * FROM current WHERE status = 'segmented') AS o
            ON o.run_id = p.run_id AND o.case_id = p.case_id
        GROUP BY ALL
    )
    SELECT {", ".join(f"k.{key}" for key in _KEYS)}, greatest(k.n - coalesce(g.scored + g.failed, 0), 0) AS pending
    FROM k LEFT JOIN scored_groups AS g ON {_same_keys("g")}"""


def _missed_sql(scores: str) -> str:
    """Failed rows that count as zero: not trained on, and the structure not known to be absent from the case."""
    return f"""
    SELECT s.run_id, s.split, s.structure, s.rater, count(*) AS missed
    FROM {scores} AS s LEFT JOIN cases AS c ON c.cohort = s.cohort AND c.case_id = s.case_id
    WHERE s.status <> 'scored' AND NOT coalesce(s.in_training, false)
        AND NOT coalesce(c.status = 'accepted' AND NOT list_contains(c.structures, s.structure), false)
    GROUP BY ALL"""


def _group_columns(metric: str) -> str:
    """Mean over rows, and centre and half width of the interval over patients."""
    patient_mean = f"{metric}_sum / nullif({metric}_n, 0)"
    patients = f"count({patient_mean})"
    half = f"{t_quantile_sql(f'({patients} - 1)')} * stddev_samp({patient_mean}) / sqrt({patients})"
    return (
        f"sum({metric}_n)::BIGINT AS {metric}_n, sum({metric}_sum) / nullif(sum({metric}_n), 0) AS {metric}_mean, "
        f"avg({patient_mean}) AS {metric}_centre, {half} AS {metric}_half, "
        f"list_median(flatten(list({metric}_list))) AS {metric}_median"
    )


def _metric_columns(metric: str) -> str:
    columns = [f"g.{metric}_mean"]
    if metric not in DISTANCES:
        columns.append(f"{_failures_as_zero(metric)} AS {metric}_mean_failures_as_zero")
    columns += [
        f"g.{metric}_median",
        f"g.{metric}_centre - g.{metric}_half AS {metric}_low",
        f"g.{metric}_centre + g.{metric}_half AS {metric}_high",
    ]
    return ", ".join(columns)


def _failures_as_zero(metric: str) -> str:
    """Mean with zeros for the missed rows; a metric that may not apply to the structure needs one value at least."""
    values = f"coalesce(g.{metric}_n, 0)"
    rows = f"nullif({values} + coalesce(m.missed, 0), 0)"
    mean = f"coalesce(g.{metric}_mean * g.{metric}_n, 0) / {rows}"
    return mean if metric in _ALWAYS_DEFINED else f"CASE WHEN {values} > 0 THEN {mean} END"


def _same_keys(table: str) -> str:
    return " AND ".join(f"{table}.{key} IS NOT DISTINCT FROM k.{key}" for key in _KEYS)


def _seconds_sql() -> str:
    return " + ".join(f"coalesce(seconds_{step}, 0)" for step in ("read", "prompt", "segment", "score", "write"))
