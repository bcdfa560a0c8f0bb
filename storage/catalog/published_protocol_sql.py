"""SQL of `medical_sam3_v1`: our scores by the formulas and denominators of the published Medical-SAM3 toolkit.

Rules of that toolkit (inference/, commit 98fb4f9 of January 2026), which the view follows:

- a case without the structure is left out, for boxes and for texts: a false alarm costs nothing;
- a box without a mask is dropped, a text without a mask is a row of zeros: the two means have different denominators;
- cases that the weights were trained on are not left out;
- PSNR and SSIM are computed on masks, SSIM by one formula over the image; a perfect PSNR is infinite and left out.

All values follow from the four counts of voxels, so no prediction is read again.
"""

from medsam3_core.settings.presets import MEDICAL_SAM3_V1, PRESETS
from storage.catalog.relations import quoted

PUBLISHED_METRICS = ("dice", "iou", "precision", "recall", "psnr", "ssim")
_C1, _C2 = 0.01**2, 0.03**2  # constants of SSIM for values 0..1


def published_protocol_sql() -> str:
    """One row per run, split and structure, for every run, to separate the effects of settings and formulas."""
    settings = quoted(PRESETS[MEDICAL_SAM3_V1].settings_id)
    means = ", ".join(f"avg({name}) FILTER (kept) AS {name}_mean" for name in PUBLISHED_METRICS)
    return f"""
WITH counted AS (
    SELECT s.*, s.prompt LIKE 'box%' AS is_box, s.status <> 'scored' OR coalesce(prediction = 0, false) AS no_mask
    FROM ({_counts_sql()}) AS s
),
valued AS (
    SELECT *, NOT absent AND NOT (is_box AND no_mask) AND (status <> 'scored' OR voxels IS NOT NULL) AS kept,
        {_or_zero("2 * shared / nullif(reference + prediction, 0)")} AS dice,
        {_or_zero("shared / nullif(reference + prediction - shared, 0)")} AS iou,
        {_or_zero("shared / nullif(prediction, 0)")} AS precision,
        {_or_zero("shared / nullif(reference, 0)")} AS recall,
        {_or_zero("10 * log10(voxels / nullif(reference + prediction - 2 * shared, 0))")} AS psnr,
        {_or_zero(_ssim_sql())} AS ssim
    FROM counted
)
SELECT r.cohort, v.split, r.weights, r.weights_version, r.prompt, r.settings_id, v.structure,
    r.settings_id = {settings} AS is_preset, count(*) FILTER (kept) AS n,
    count(*) FILTER (absent) AS absent_left_out, count(*) FILTER (NOT absent AND is_box AND no_mask) AS boxes_dropped,
    count(*) FILTER (NOT absent AND NOT is_box AND no_mask) AS texts_as_zero,
    count(*) FILTER (status = 'scored' AND voxels IS NULL) AS without_counts, {means}, v.run_id
FROM valued AS v JOIN internal.numbered_runs AS r ON r.run_id = v.run_id AND NOT r.superseded
GROUP BY ALL"""


def _counts_sql() -> str:
    """Counts of voxels as DOUBLE, against the first rater only; `absent` if the structure is known to be absent."""
    voxels = "s.true_positive + s.false_positive + s.false_negative + s.true_negative"
    return f"""
    SELECT s.run_id, s.split, s.structure, s.prompt, s.status, s.true_positive::DOUBLE AS shared,
        (s.true_positive + s.false_negative)::DOUBLE AS reference,
        (s.true_positive + s.false_positive)::DOUBLE AS prediction, ({voxels})::DOUBLE AS voxels,
        CASE WHEN s.status = 'scored' THEN s."empty" IN ('both', 'reference')
            ELSE coalesce(c.status = 'accepted' AND NOT list_contains(c.structures, s.structure), false) END AS absent
    FROM scores AS s LEFT JOIN cases AS c ON c.cohort = s.cohort AND c.case_id = s.case_id
    WHERE c.raters IS NULL OR len(c.raters) = 0 OR s.rater = c.raters[1]"""


def _or_zero(formula: str) -> str:
    """The formula if there is a mask, otherwise zero."""
    return f"CASE WHEN no_mask THEN 0 ELSE {formula} END"


def _ssim_sql() -> str:
    """Structural similarity of two masks over the whole image, from means, variances and covariance of 0 and 1."""
    mean_r, mean_p = "(reference / voxels)", "(prediction / voxels)"
    covariance = f"(shared / voxels - {mean_r} * {mean_p})"
    variances = f"({mean_r} * (1 - {mean_r}) + {mean_p} * (1 - {mean_p}))"
    above = f"(2 * {mean_r} * {mean_p} + {_C1}) * (2 * {covariance} + {_C2})"
    return f"{above} / (({mean_r} * {mean_r} + {mean_p} * {mean_p} + {_C1}) * ({variances} + {_C2}))"
