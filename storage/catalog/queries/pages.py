"""Queries of the dashboard and the report, one function per table or figure; frames with units in their columns."""

from typing import TYPE_CHECKING, Any

from medsam3_core.metrics.table import METRICS
from medsam3_core.settings.inference import InferenceSettings
from storage.catalog.catalog import connect
from storage.store.layout import StoreLayout

if TYPE_CHECKING:  # commands do not need pandas
    import pandas as pd

_LABEL = "{0}.weights || CASE WHEN {0}.weights_version > 1 THEN '@' || {0}.weights_version ELSE '' END AS label"
"""Label of weights on pages: NAME for version 1, otherwise NAME@N."""


def leaderboard(store: StoreLayout) -> "pd.DataFrame":
    """The view `leaderboard` with `label` and the run's `settings`; best Dice first within a structure."""
    return _ask(
        store,
        f"""
        SELECT l.*, {_LABEL.format("l")}, r.settings FROM leaderboard AS l JOIN runs AS r USING (run_id)
        ORDER BY l.cohort, l.split NULLS FIRST, l.structure, l.rater, l.dice_mean DESC NULLS LAST, label, l.prompt""",
    )


def weights_labels(store: StoreLayout) -> list[str]:
    """Labels of all weights with a run, oldest first: an order that later runs do not change."""
    found = _ask(
        store, f"SELECT {_LABEL.format('runs')}, min(created_at) AS first FROM runs GROUP BY ALL ORDER BY 2, 1"
    )
    return [str(label) for label in found["label"]]


def case_scores(store: StoreLayout, cohort: str) -> "pd.DataFrame":
    """Fresh scores of one cohort with `label` and `settings`, worst Dice first."""
    return _ask(
        store,
        f"""
        SELECT s.case_id, s.structure, s.rater, {_LABEL.format("s")}, s.prompt, r.settings,
            {", ".join(f"s.{metric}" for metric in METRICS)}, s.volume_error, s.status, s."empty",
            s.reason, s.patient_id, s.split, s.distance_unit, s.run_id
        FROM scores AS s JOIN runs AS r USING (run_id) WHERE s.cohort = $cohort
        ORDER BY s.dice NULLS LAST, s.case_id, s.structure""",
        cohort=cohort,
    )


def accepted_cases(store: StoreLayout) -> "pd.DataFrame":
    """Accepted cases: cohort, case_id, size, spacing, unit, structures, raters."""
    return _ask(
        store,
        """
        SELECT cohort, case_id, patient_id, split, modality, ndim, size_z, size_y, size_x, spacing_z, spacing_y,
            spacing_x, distance_unit, structures, raters
        FROM cases WHERE status = 'accepted' ORDER BY cohort, case_id""",
    )


def cohorts(store: StoreLayout) -> "pd.DataFrame":
    """One row per cohort: accepted and rejected cases, patients."""
    return _ask(
        store,
        """
        SELECT cohort, count(*) FILTER (status = 'accepted') AS accepted,
            count(*) FILTER (status = 'rejected') AS rejected, count(DISTINCT patient_id) AS patients,
            any_value(modality) AS modality
        FROM cases GROUP BY cohort ORDER BY cohort""",
    )


def runs_of_case(store: StoreLayout, cohort: str, case_id: str) -> "pd.DataFrame":
    """Runs that scored or segmented a case, newest of each weights, prompts and settings."""
    return _ask(
        store,
        f"""
        SELECT r.run_id, {_LABEL.format("r")}, r.prompt, r.prompt_id, r.settings, o.status
        FROM runs AS r JOIN outcomes AS o ON o.run_id = r.run_id AND o."latest"
        WHERE r.cohort = $cohort AND o.case_id = $case_id AND o.status IN ('scored', 'segmented')
        QUALIFY row_number() OVER (PARTITION BY label, r.prompt, r.settings ORDER BY r.created_at DESC) = 1
        ORDER BY label, r.prompt, r.settings""",
        cohort=cohort,
        case_id=case_id,
    )


def traces_of_case(store: StoreLayout, cohort: str, case_id: str) -> "pd.DataFrame":
    """Events of the agent on a case, by run and structure, in order."""
    return _ask(
        store,
        f"""
        SELECT t.*, {_LABEL.format("r")}, r.settings FROM traces AS t JOIN runs AS r USING (run_id)
        WHERE t.cohort = $cohort AND t.case_id = $case_id ORDER BY r.created_at DESC, t.run_id, t.step""",
        cohort=cohort,
        case_id=case_id,
    )


def prompts_of_case(store: StoreLayout, cohort: str, case_id: str, prompt_id: str) -> "pd.DataFrame":
    """Prompts of one case under one policy, one row per box, point or text."""
    return _ask(
        store,
        """
        SELECT slice, structure, instance, kind, text, x0, y0, x1, y1, x, y, label FROM prompts
        WHERE cohort = $cohort AND case_id = $case_id AND prompt_id = $prompt_id AND kind <> 'none'
        ORDER BY slice, structure, instance""",
        cohort=cohort,
        case_id=case_id,
        prompt_id=prompt_id,
    )


def runs(store: StoreLayout) -> "pd.DataFrame":
    """All runs with their progress, newest first."""
    return _ask(
        store,
        f"""
        WITH done AS (
            SELECT run_id, count(*) FILTER (status = 'scored') AS scored,
                count(*) FILTER (status NOT IN ('scored', 'segmented')) AS failed, max(finished_at) AS last_finished,
                avg(coalesce(seconds_read, 0) + coalesce(seconds_prompt, 0) + coalesce(seconds_segment, 0)
                    + coalesce(seconds_score, 0) + coalesce(seconds_write, 0))
                    FILTER (status = 'scored') AS seconds_per_case,
                string_agg(DISTINCT device, ', ') AS device
            FROM outcomes WHERE "latest" GROUP BY run_id
        ),
        planned AS (SELECT run_id, count(DISTINCT case_id) AS planned FROM plan GROUP BY run_id)
        SELECT r.run_id, {_LABEL.format("r")}, r.cohort, r.prompt, r.settings, r.privileged,
            coalesce(p.planned, 0) AS planned, coalesce(d.scored, 0) AS scored, coalesce(d.failed, 0) AS failed,
            d.seconds_per_case, d.device, r.created_at, d.last_finished, r.weights_sha256, r.prompt_id, r.settings_id,
            r.inference_code, r.git_commit, r.machine, r.versions
        FROM runs AS r LEFT JOIN done AS d USING (run_id) LEFT JOIN planned AS p USING (run_id)
        ORDER BY r.created_at DESC, r.run_id""",
    )


def history(store: StoreLayout) -> "pd.DataFrame":
    """The view `history`: one row per weights version, cohort, split, prompts and settings."""
    return _ask(store, "SELECT * FROM history ORDER BY cohort, split NULLS FIRST, prompt, weights, weights_version")


def protocol_steps(store: StoreLayout, cohort: str) -> "pd.DataFrame":
    """Mean Dice by our protocol, by the published one and by mixtures of both, per weights, prompt kind and structure.

    `ours` has our settings and denominators, `settings` the preset's settings and our denominators, `formulas` our
    settings and the toolkit's denominators, `published` both of the toolkit; NULL if there is no such run, or if the
    toolkit drops every row. All are against the primary rater, the only one of the toolkit. The toolkit's denominators
    are computed for every run, so `formulas` needs no run of the preset.
    """
    return _ask(
        store,
        f"""
        WITH runs_of_both AS (
            SELECT l.*, v.is_preset, v.dice_mean AS theirs, v.n, v.boxes_dropped, split_part(l.prompt, ':', 1) AS kind
            FROM leaderboard AS l JOIN medical_sam3_v1 AS v ON v.run_id = l.run_id AND v.structure = l.structure
                AND v.split IS NOT DISTINCT FROM l.split
            ANTI JOIN internal.secondary_raters AS other ON other.cohort = l.cohort AND other.rater = l.rater
            WHERE l.cohort = $cohort AND (l.prompt LIKE 'text:%slices=all' OR l.prompt LIKE 'box:jitter=0,%slices=all')
        )
        SELECT {_LABEL.format("runs_of_both")}, split, structure, kind,
            max(dice_mean_failures_as_zero) FILTER (NOT is_preset AND settings_id = $ours) AS ours,
            max(dice_mean_failures_as_zero) FILTER (is_preset) AS settings,
            max(theirs) FILTER (NOT is_preset AND settings_id = $ours) AS formulas,
            max(theirs) FILTER (is_preset) AS published, coalesce(max(n) FILTER (is_preset), max(n)) AS n
        FROM runs_of_both WHERE is_preset OR settings_id = $ours
        GROUP BY ALL HAVING published IS NOT NULL OR formulas IS NOT NULL OR sum(boxes_dropped) > 0
        ORDER BY structure, label, kind""",
        cohort=cohort,
        ours=InferenceSettings().settings_id,
    )


def pending(store: StoreLayout) -> int:
    """Number of planned scores without a score, and of planned measurements of cases that are not segmented yet."""
    found = _ask(
        store,
        """
        SELECT (SELECT coalesce(sum(pending), 0) FROM leaderboard)::BIGINT + (
            SELECT count(*) FROM (SELECT run_id, case_id FROM plan WHERE rater IS NULL)
            ANTI JOIN internal.current_attempts USING (run_id, case_id)
        ) AS pending""",
    )
    return int(found["pending"].iloc[0])


def failures(store: StoreLayout) -> "pd.DataFrame":
    """Cases without a score and the reasons, newest first; rejected cases appear once, without a run."""
    return _ask(
        store,
        """
        SELECT status, reason, cohort, case_id,
            weights || CASE WHEN weights_version > 1 THEN '@' || weights_version ELSE '' END AS label,
            prompt, run_id, source, finished_at
        FROM failures ORDER BY finished_at DESC, cohort, case_id""",
    )


def _ask(store: StoreLayout, query: str, **parameters: Any) -> "pd.DataFrame":
    with connect(store, query) as con:
        frame: pd.DataFrame = con.execute(query, parameters or None).df()
    return frame
