"""SQL of fresh scores: the rows, of all that were written, that are valid for the current cases and protocol."""

from collections.abc import Sequence

from medsam3_core.metrics.protocol_version import PROTOCOL_VERSION
from storage.catalog.relations import CatalogSources, quoted

_STEPS = ("read", "prompt", "segment", "score", "write")


def newest_sql(keys: str, order: str, relation: str) -> str:
    """The first row per key in this order."""
    return f"SELECT * FROM ({relation}) QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {order}) = 1"


def outcomes_sql(sources: CatalogSources) -> str:
    """All attempts, with a mark on the newest of each case."""
    newest = "row_number() OVER (PARTITION BY run_id, case_id ORDER BY finished_at DESC, attempt DESC) = 1"
    return f'SELECT *, {newest} AS "latest" FROM ({sources.outcomes})'


def current_attempts_sql(sources: CatalogSources, *, of_runs: str | None = None) -> str:
    """The newest attempt per run and case, as in `outcomes`, if it was made from the current case.

    `is_marked` is true if the case is now marked as one that the weights of the run learned from.

    Args:
        sources: Relations of the store.
        of_runs: Relation with the column `run_id` of the runs to take; None for all runs.
    """
    where = f" WHERE run_id IN (SELECT run_id FROM {of_runs})" if of_runs else ""
    outcomes = f"SELECT * FROM ({sources.outcomes}){where}"
    newest = newest_sql("run_id, case_id", "finished_at DESC, attempt DESC", outcomes)
    return f"""
SELECT o.run_id, o.case_id, o.attempt, o.finished_at, o.case_digest, o.status, o.reason, c.split, c.patient_id,
    c.status AS case_status, c.structures AS case_structures,
    coalesce(list_has_any(c.in_training, coalesce(r.weights_identities, [r.weights_sha256, r.weights])), false)
        AS is_marked,
    {" + ".join(f"coalesce(o.seconds_{step}, 0)" for step in _STEPS)} AS seconds
FROM ({newest}) AS o
JOIN runs AS r ON r.run_id = o.run_id
JOIN cases AS c ON c.cohort = r.cohort AND c.case_id = o.case_id AND c.case_digest IS NOT DISTINCT FROM o.case_digest"""


def fresh_scores_sql(
    sources: CatalogSources, *, attempts: str = "internal.current_attempts", extra: Sequence[str] = ()
) -> str:
    """Fresh rows, with the current split, patient and marks of training of their cases.

    Files of batches may hold a row twice (scored again after an interruption): the newest counts. Compacted scores have
    no duplicates and no other digests, so these checks are not repeated for them.

    Args:
        sources: Relations of the store.
        attempts: Relation of the current attempts.
        extra: Additional columns of that relation.
    """
    keys = "run_id, case_id, rater, structure"
    same_digest = "AND o.case_digest IS NOT DISTINCT FROM s.case_digest"
    batches = newest_sql(keys, "finished_at DESC", _fresh(sources.scores, attempts, extra, same_digest))
    return f"({_fresh(sources.scores_compacted, attempts, extra)}) UNION ALL ({batches})"


def _fresh(relation: str, attempts: str, extra: Sequence[str], also: str = "") -> str:
    now = "o.split AS split, o.patient_id AS patient_id, s.in_training OR o.is_marked AS in_training"
    columns = [f"s.* REPLACE ({now})", *(f"o.{name}" for name in extra)]
    return f"""
SELECT {", ".join(columns)} FROM ({relation}) AS s
JOIN {attempts} AS o ON o.run_id = s.run_id AND o.case_id = s.case_id AND o.attempt = s.attempt {also}
WHERE s.protocol = {quoted(PROTOCOL_VERSION)}"""


def lasting_scores_sql(sources: CatalogSources) -> str:
    """Rows that are fresh or may become fresh again: of the newest attempts and their digests, the newest per protocol.

    Rows that no change of a case or protocol can make fresh again are left out: rows of older attempts, of attempts
    without an outcome, and rows that were written again.
    """
    newest = newest_sql("run_id, case_id", "finished_at DESC, attempt DESC", sources.outcomes)
    rows = f"""
SELECT s.* FROM (({sources.scores_compacted}) UNION ALL ({sources.scores})) AS s
SEMI JOIN ({newest}) AS o ON o.run_id = s.run_id AND o.case_id = s.case_id AND o.attempt = s.attempt
    AND o.case_digest IS NOT DISTINCT FROM s.case_digest"""
    return newest_sql("run_id, case_id, rater, structure, protocol", "finished_at DESC", rows)
