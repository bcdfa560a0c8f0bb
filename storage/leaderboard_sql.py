"""SQL of `leaderboard` and `history`: means that never stand without their denominators.

A row of `scores` is *counted* when it is scored, its structure is present in the reference and the weights were not
trained on the case. Means and medians are over counted rows, intervals over the means of patients.
"""

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


def leaderboard_of_runs_sql() -> str:
    """One row per run, split, structure and rater, with `superseded` for runs that a newer one has replaced."""
    keys = ", ".join(_KEYS)
    return f"""
WITH counted_scores AS NOT MATERIALIZED ({_counted_scores_sql()}),
counts AS MATERIALIZED (
    SELECT {keys},
        count(*) FILTER (status = 'scored') AS scored,
        count(*) FILTER (status <> 'scored') AS failed,
        count(*) FILTER (trained) AS in_training,
        count(*) FILTER (counted) AS present,
        count(*) FILTER (is_absent) AS absent,
        count(*) FILTER (is_absent AND "empty" = 'both') AS absent_correct,
        any_value(distance_unit) AS distance_unit
    FROM counted_scores GROUP BY ALL
),
pending AS MATERIALIZED ({_pending_sql()}),
missed AS MATERIALIZED ({_missed_sql()}),
cases_stats AS (
    SELECT {keys}, {", ".join(f"avg({m}) AS {m}_mean, median({m}) AS {m}_median, count({m}) AS {m}_n" for m in METRICS)}
    FROM counted_scores GROUP BY ALL
),
patient_means AS (
    SELECT {keys}, patient_id, {", ".join(f"avg({m}) AS {m}" for m in METRICS)} FROM counted_scores GROUP BY ALL
),
patient_stats AS (
    SELECT {keys}, {", ".join(_patient_stats(m) for m in METRICS)} FROM patient_means GROUP BY ALL
),
all_keys AS (SELECT {keys} FROM counts UNION SELECT {keys} FROM pending),
seconds AS (
    SELECT run_id, avg({_seconds_sql()}) AS seconds_per_case
    FROM internal.current_attempts WHERE status IN ('scored', 'segmented') GROUP BY run_id
)
SELECT runs.cohort, k.split, runs.weights, runs.weights_version, runs.prompt, runs.settings_id, k.structure,
    coalesce(c.scored, 0) + coalesce(c.failed, 0) + coalesce(p.pending, 0) AS planned,
    coalesce(c.scored, 0) AS scored, coalesce(c.failed, 0) AS failed, coalesce(p.pending, 0) AS pending,
    coalesce(c.in_training, 0) AS in_training, coalesce(c.present, 0) AS present, coalesce(c.absent, 0) AS absent,
    coalesce(c.absent_correct, 0) AS absent_correct,
    {", ".join(_metric_columns(m) for m in METRICS)},
    seconds.seconds_per_case, k.rater, runs.privileged, c.distance_unit, coalesce(m.missed, 0) AS failed_present,
    {", ".join(f"a.{m}_n" for m in DISTANCES)}, k.run_id, runs.superseded
FROM all_keys AS k
JOIN internal.numbered_runs AS runs ON runs.run_id = k.run_id
LEFT JOIN counts AS c ON {_same_keys("c")}
LEFT JOIN pending AS p ON {_same_keys("p")}
LEFT JOIN missed AS m ON {_same_keys("m")}
LEFT JOIN cases_stats AS a ON {_same_keys("a")}
LEFT JOIN patient_stats AS i ON {_same_keys("i")}
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
FROM ({_counted_scores_sql()}) AS s JOIN internal.numbered_runs AS r ON r.run_id = s.run_id AND NOT r.superseded
GROUP BY r.weights, r.weights_version, r.cohort, r.prompt, r.settings_id, r.privileged
"""


def _counted_scores_sql() -> str:
    """Fresh scores whose metrics are NULL unless the row is counted."""
    metrics = ", ".join(f"CASE WHEN counted THEN {m} END AS {m}" for m in METRICS)
    return f"""
    SELECT run_id, split, structure, rater, patient_id, status, "empty", distance_unit, finished_at, trained, counted,
        is_absent, {metrics}
    FROM (
        SELECT *, coalesce(in_training, false) AS trained,
            status = 'scored' AND NOT coalesce(in_training, false) AND "empty" IN ('none', 'prediction') AS counted,
            status = 'scored' AND NOT coalesce(in_training, false) AND "empty" IN ('both', 'reference') AS is_absent
        FROM scores
    )"""


def _pending_sql() -> str:
    """Planned rows without a fresh score, looked for only in runs whose plan and scores differ in number."""
    return """
    WITH finished AS (SELECT run_id, sum(scored + failed) AS n FROM counts GROUP BY run_id),
    unfinished AS (
        SELECT plan.run_id FROM (SELECT run_id, count(*) AS n FROM plan GROUP BY run_id) AS plan
        LEFT JOIN finished ON finished.run_id = plan.run_id WHERE plan.n <> coalesce(finished.n, 0)
    )
    SELECT p.run_id, c.split, p.structure, p.rater, count(*) AS pending
    FROM plan AS p
    JOIN runs AS r ON r.run_id = p.run_id
    LEFT JOIN cases AS c ON c.cohort = r.cohort AND c.case_id = p.case_id
    WHERE p.run_id IN (SELECT run_id FROM unfinished)
        AND NOT EXISTS (
            SELECT 1 FROM scores AS s
            WHERE s.run_id = p.run_id AND s.case_id = p.case_id AND s.structure = p.structure
                AND s.rater IS NOT DISTINCT FROM p.rater
        )
        AND NOT EXISTS (
            SELECT 1 FROM internal.current_attempts AS o
            WHERE o.status = 'segmented' AND o.run_id = p.run_id AND o.case_id = p.case_id
        )
    GROUP BY ALL"""


def _missed_sql() -> str:
    """Failed rows that count as zero: not trained on, and the structure not known to be absent from the case."""
    return """
    SELECT s.run_id, s.split, s.structure, s.rater, count(*) AS missed
    FROM scores AS s LEFT JOIN cases AS c ON c.cohort = s.cohort AND c.case_id = s.case_id
    WHERE s.status <> 'scored' AND NOT coalesce(s.in_training, false)
        AND NOT coalesce(c.status = 'accepted' AND NOT list_contains(c.structures, s.structure), false)
    GROUP BY ALL"""


def _patient_stats(metric: str) -> str:
    return (
        f"count({metric}) AS {metric}_patients, avg({metric}) AS {metric}_centre, "
        f"stddev_samp({metric}) AS {metric}_spread"
    )


def _metric_columns(metric: str) -> str:
    columns = [f"a.{metric}_mean"]
    if metric not in DISTANCES:
        columns.append(f"{_failures_as_zero(metric)} AS {metric}_mean_failures_as_zero")
    half = f"{t_quantile_sql(f'(i.{metric}_patients - 1)')} * i.{metric}_spread / sqrt(i.{metric}_patients)"
    columns += [
        f"a.{metric}_median",
        f"i.{metric}_centre - {half} AS {metric}_low",
        f"i.{metric}_centre + {half} AS {metric}_high",
    ]
    return ", ".join(columns)


def _failures_as_zero(metric: str) -> str:
    """Mean with zeros for the missed rows; a metric that may not apply to the structure needs one value at least."""
    values = f"coalesce(a.{metric}_n, 0)"
    rows = f"nullif({values} + coalesce(m.missed, 0), 0)"
    mean = f"coalesce(a.{metric}_mean * a.{metric}_n, 0) / {rows}"
    return mean if metric in _ALWAYS_DEFINED else f"CASE WHEN {values} > 0 THEN {mean} END"


def _same_keys(table: str) -> str:
    return " AND ".join(f"{table}.{key} IS NOT DISTINCT FROM k.{key}" for key in _KEYS)


def _seconds_sql() -> str:
    return " + ".join(f"coalesce(seconds_{step}, 0)" for step in ("read", "prompt", "segment", "score", "write"))
