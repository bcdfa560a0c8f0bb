"""SQL of `agreement` and `inter_rater`: how far people agree, on the cases as they are now."""

from medsam3_core.protocol_version import PROTOCOL_VERSION
from storage.catalog_sources import CatalogSources, quoted
from storage.scores_sql import newest_sql


def agreement_sql(sources: CatalogSources) -> str:
    """Rows of the current digest and protocol, with split and patient as the cohort has them now."""
    current = f"""
SELECT a.*, c.split, c.patient_id FROM ({sources.agreement}) AS a
JOIN cases AS c ON c.cohort = a.cohort AND c.case_id = a.case_id AND c.case_digest IS NOT DISTINCT FROM a.case_digest
WHERE a.protocol = {quoted(PROTOCOL_VERSION)}"""
    return newest_sql("cohort, case_id, structure, rater, other_rater", "case_digest", current)


def inter_rater_sql() -> str:
    """Means over cases that hold the structure by one of the two raters at least; one unit, or none that has a unit."""
    nsd, hd95, unit = (
        f"CASE WHEN count(DISTINCT distance_unit) <= 1 THEN {sql} END"
        for sql in ("avg(nsd)", "avg(hd95)", "any_value(distance_unit)")
    )
    return f"""
SELECT cohort, split, structure, rater, other_rater, count(dice) AS cases, count(DISTINCT patient_id) AS patients,
    avg(dice) AS dice_mean, median(dice) AS dice_median, min(dice) AS dice_min, max(dice) AS dice_max,
    {nsd} AS nsd_mean, {hd95} AS hd95_mean, avg(cldice) AS cldice_mean, {unit} AS distance_unit
FROM agreement WHERE "empty" <> 'both' GROUP BY ALL"""
