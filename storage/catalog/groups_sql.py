"""SQL of score groups: counts and statistics per run, split, structure and rater, which leaderboard and history show.

A row of `scores` is *counted* when it is scored, its structure is present in the reference and the weights were not
trained on the case. Means and medians are over counted rows, intervals over the means of patients. If counted rows are
in mm and in px, metrics that need one unit are undefined, and so is their number of values.

Compaction keeps the groups of a run beside its scores. They are valid while their inputs are unchanged: the current
attempts, the digests, splits, patients, structures and marks of training of their cases (the *group key* is a digest of
these), the protocol, and this file (`GROUPS_VERSION`). Otherwise they are computed from the rows: all metrics of
10 million rows take 30 s, kept groups 2 s.
"""

from medsam3_core.metrics.protocol_version import PROTOCOL_VERSION
from medsam3_core.metrics.table import METRICS
from storage.catalog.relations import CatalogSources, quoted
from storage.catalog.scores_sql import fresh_scores_sql
from storage.store.schemas import GROUPS

_T_975 = (
    12.706204736432, 4.302652729696, 3.182446305284, 2.776445105198, 2.570581835636, 2.446911851145, 2.364624251593,
    2.306004135204, 2.262157162798, 2.228138851965, 2.200985160083, 2.178812829663, 2.160368656461, 2.144786687917,
    2.131449545559, 2.119905299221, 2.109815577833, 2.100922040241, 2.093024054408, 2.085963447266, 2.079613844728,
    2.073873067904, 2.068657610419, 2.063898561628, 2.059538552753, 2.055529438643, 2.051830516480, 2.048407141795,
    2.045229642133, 2.042272456301,
)  # fmt: skip
_Z_975 = 1.959963984540054


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


GROUPS_VERSION = "2"
"""Raise it when a change of code gives other groups for the same scores."""

GROUP_COLUMNS = ("run_id", "split", "structure", "rater")
GROUP_COUNTS = ("scored", "failed", "in_training", "present", "absent", "absent_correct")
_ONE_UNIT = "NOT coalesce(bool_or(in_mm) AND bool_or(in_px), false)"
_HOLDS = """k.run_id = f.run_id AND k.cases = f.cases AND k.fingerprint = f.group_key AND k.protocol = f.protocol
    AND k.groups_version = f.groups_version"""
"""Condition for kept groups k to be valid by the facts f of their run; on disk the group key is `fingerprint`."""
_IDENTITY = {"cases", "fingerprint", "protocol", "groups_version"}


def score_groups_sql(sources: CatalogSources) -> str:
    """The view of all groups, with the facts of their runs beside them."""
    return f"WITH {score_group_ctes(sources)} SELECT * FROM groups JOIN run_facts USING (run_id)"


def score_group_ctes(sources: CatalogSources) -> str:
    """CTEs `groups` (one row per group), `run_facts` (one per run with current attempts) and `attempts` (these).

    Groups that compaction kept are taken while valid; all others are computed from the rows. The rows are read once,
    into one row per patient; means come from sums and medians from lists, so that no second pass is needed. The engine
    skips metrics that a query does not select.
    """
    keys = ", ".join(GROUP_COLUMNS)
    columns = ", ".join(f"g.{name}" for name in GROUPS.names if name not in _IDENTITY)
    return f"""
attempts AS MATERIALIZED (SELECT * FROM internal.current_attempts),
run_facts AS MATERIALIZED ({_run_facts_sql()}),
kept AS MATERIALIZED (SELECT k.* FROM ({sources.groups}) AS k SEMI JOIN run_facts AS f ON {_HOLDS}),
todo AS MATERIALIZED (
    SELECT *, dense_rank() OVER (ORDER BY run_id, split, patient_id) AS patient_key FROM attempts
    WHERE run_id NOT IN (SELECT run_id FROM kept)
),
patient_keys AS (SELECT DISTINCT patient_key, run_id, split FROM todo),
fresh AS NOT MATERIALIZED ({fresh_scores_sql(sources, attempts="todo", extra=("patient_key",))}),
computed AS MATERIALIZED (
    SELECT {keys}, {", ".join(f"sum({count})::BIGINT AS {count}" for count in GROUP_COUNTS)},
        CASE WHEN {_ONE_UNIT} THEN any_value(distance_unit) END AS distance_unit,
        {", ".join(_statistics(m) for m in METRICS)}
    FROM ({_patients_sql("fresh")}) JOIN patient_keys USING (patient_key) GROUP BY {keys}
),
missed AS ({_missed_sql("fresh")}),
groups AS MATERIALIZED (
    SELECT {columns} FROM kept AS g
    UNION ALL
    SELECT {columns.replace("g.missed", "coalesce(m.missed, 0) AS missed")}
    FROM computed AS g LEFT JOIN missed AS m ON {same_group("g", "m")}
)"""


def _run_facts_sql() -> str:
    """Facts of each run as a whole; the group key is a digest of the inputs of its groups."""
    row = "case_id, attempt, status, case_digest, split, patient_id, case_status, case_structures, is_marked"
    return f"""
    SELECT run_id, count(*) AS cases, sum(hash({row}))::VARCHAR AS group_key,
        {quoted(PROTOCOL_VERSION)} AS protocol, {quoted(GROUPS_VERSION)} AS groups_version,
        avg(seconds) FILTER (status IN ('scored', 'segmented')) AS seconds_per_case,
        min(finished_at) AS first_finished, max(finished_at) AS last_finished
    FROM attempts GROUP BY run_id"""


def same_group(one: str, other: str) -> str:
    """Join condition on all keys, which may be NULL."""
    return " AND ".join(f"{one}.{key} IS NOT DISTINCT FROM {other}.{key}" for key in GROUP_COLUMNS)


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
    """Counts, and sum, number and list of each metric, per patient (by number: faster than by three texts)."""
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
        any_value(distance_unit) FILTER (counted) AS distance_unit,
        bool_or(distance_unit = 'mm') FILTER (counted) AS in_mm,
        bool_or(distance_unit = 'px') FILTER (counted) AS in_px, {lists}
    FROM ({_counted_scores_sql(scores)}) GROUP BY patient_key, structure, rater"""


def _missed_sql(scores: str) -> str:
    """Failed rows that count as zero: case not trained on, structure not known to be absent."""
    return f"""
    SELECT s.run_id, s.split, s.structure, s.rater, count(*) AS missed
    FROM {scores} AS s LEFT JOIN cases AS c ON c.cohort = s.cohort AND c.case_id = s.case_id
    WHERE s.status <> 'scored' AND NOT coalesce(s.in_training, false)
        AND NOT coalesce(c.status = 'accepted' AND NOT list_contains(c.structures, s.structure), false)
    GROUP BY ALL"""


def _statistics(metric: str) -> str:
    """Number, mean and median of rows, and centre and half width of the interval over patients."""
    patient_mean = f"{metric}_sum / nullif({metric}_n, 0)"
    patients = f"count({patient_mean})"
    statistics = {
        "n": f"sum({metric}_n)::BIGINT",
        "mean": f"sum({metric}_sum) / nullif(sum({metric}_n), 0)",
        "centre": f"avg({patient_mean})",
        "half": f"{t_quantile_sql(f'({patients} - 1)')} * stddev_samp({patient_mean}) / sqrt({patients})",
        "median": f"list_median(flatten(list({metric}_list)))",
    }
    if METRICS[metric].needs_one_unit:
        statistics = {name: f"CASE WHEN {_ONE_UNIT} THEN {sql} END" for name, sql in statistics.items()}
    return ", ".join(f"{sql} AS {metric}_{name}" for name, sql in statistics.items())
