"""The page `docs/reference/catalog.md`, derived from schemas and views, and tables of metrics for other pages."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from medsam3_core.metrics.table import METRICS
from storage.catalog.catalog import connect
from storage.catalog.views import PUBLIC_VIEWS
from storage.store import schemas
from storage.store.layout import StoreLayout

_SCHEMAS = {
    "cases": schemas.CASES,
    "prompts": schemas.PROMPTS,
    "runs": schemas.RUNS,
    "plan": schemas.PLAN,
    "outcomes": schemas.OUTCOMES,
    "scores": schemas.SCORES,
    "measurements": schemas.MEASUREMENTS,
    "traces": schemas.TRACES,
    "agreement": schemas.AGREEMENT,
}
VIEW_SUMMARIES = {
    "cases": "One row per case of every cohort, as last ingested: accepted, or rejected with its reason.",
    "prompts": "Prompts made from the current cases.",
    "runs": "One row per run: weights, cohort, prompts, settings and versions.",
    "plan": "Planned rows of each run: every one is scored, failed or pending.",
    "outcomes": "The ledger: one row per case and batch that worked on it; `latest` marks the newest of each case.",
    "scores": "Fresh scores, one row per planned run, case, rater and structure: newest outcome, current case, current "
    "protocol. Rows that ended without a score are here too, with NULL metrics. `split` and `patient_id` are those "
    "that the cohort has now, and `in_training` knows the marks that its cases got later.",
    "failures": "Every case that did not end as scored or segmented in a run, and every case rejected at ingest.",
    "leaderboard": "Means with their denominators, per cohort, split, weights, prompt, settings, structure and rater. "
    "If the inference or prompt code has changed, only the newest run of equal keys is shown.",
    "leaderboard_of_runs": "The leaderboard with the runs that a newer one has replaced (`superseded`).",
    "history": "One row per weights version, cohort, split, prompt and settings, over all structures, against the "
    "primary rater (the first rater of most cases of the cohort).",
    "medical_sam3_v1": "Our scores by the formulas and denominators of the published Medical-SAM3 toolkit, for every "
    "run; `benchmark --preset medical-sam3-v1` makes runs with its settings too. See docs/metrics.md.",
    "measurements": "Volumes, bounding boxes and intensities of predictions.",
    "traces": "Events of the agent behind the newest outcome of each case; joins `scores` by `run_id`, `case_id` and "
    "`structure`.",
    "agreement": "Agreement of two raters of the same case, per case and structure, for the current cases.",
    "inter_rater": "The inter-rater line of a leaderboard: agreement of raters over the cases of a cohort and split.",
}
_DERIVED = {
    "latest": "true for the newest outcome of the case in this run",
    "planned": "scored + failed + pending",
    "scored": "rows with a score",
    "failed": "rows that ended as rejected, failed or crashed",
    "pending": "planned rows without a fresh score",
    "in_training": "rows on cases that the weights were trained on; left out of all that follows",
    "present": "scored rows whose reference holds the structure: the rows behind the means",
    "absent": "scored rows whose reference does not hold it",
    "absent_correct": "absent rows with an empty prediction",
    "failed_present": "failed rows that failures_as_zero counts: the structure is not known to be absent from the case",
    "distance_unit": "mm or px; NULL where the rows behind the means are in both: then distances and NSD are NULL, too",
    "seconds_per_case": "mean seconds of the run per case, all steps",
    "superseded": "true if a newer run has the same cohort, weights, version, prompt and settings",
    "dice_mean": "mean Dice of counted rows",
    "n": "rows behind the mean",
    "first_finished": "UTC",
    "last_finished": "UTC",
    "is_preset": "true if the run has the settings of the preset medical-sam3-v1",
    "absent_left_out": "rows without the structure, which that toolkit leaves out",
    "boxes_dropped": "box rows without a mask, which that toolkit drops",
    "texts_as_zero": "text rows without a mask, zeros in that toolkit",
    "without_counts": "rows scored before voxels were counted; left out here",
    "psnr_mean": "mean PSNR of masks in dB; perfect ones are infinite and left out",
    "ssim_mean": "mean SSIM of masks, one window as large as the image",
    "cases": "cases that both raters drew and that hold the structure",
    "patients": "patients of these cases",
    "dice_min": "lowest Dice of a case",
    "dice_max": "highest Dice of a case",
    "base_status": "status of the row of BASE",
    "new_status": "status of the row of NEW",
    "base_empty": "which mask is empty in BASE",
    "new_empty": "which mask is empty in NEW",
    "base_run_id": "run of BASE",
    "new_run_id": "run of NEW",
    "difference_dice": "new_dice - base_dice",
}
_SUFFIXES = {
    "_mean_failures_as_zero": "mean with zeros for failed_present",
    "_mean": "mean over present rows",
    "_median": "median over present rows",
    "_low": "lower end of the 95 % t interval on patient means",
    "_high": "upper end of the 95 % t interval on patient means",
    "_n": "values behind the mean: a distance needs both masks, and rows scored before the metric was added have none",
}
_INTRODUCTION = """# The catalog

Generated by `make docs` from the Arrow schemas; do not edit.

`medsam3 sql "SELECT ..."` answers from these views. `catalog.duckdb` in the store holds the same views for other tools
that open it read-only; it names absolute folders and is written again when the store has moved. Times are UTC. NULL is
"not defined" or "not known", never NaN. Distances are in the `distance_unit` of their row.
"""


def catalog_markdown() -> str:
    """The page: one table of columns per view, and the macro `compare`."""
    with tempfile.TemporaryDirectory() as folder, connect(StoreLayout(Path(folder))) as con:
        parts = [_INTRODUCTION, *(_section(con, view) for view in PUBLIC_VIEWS), _compare_section(con)]
    return "\n".join(parts)


def with_metric_tables(page: str) -> str:
    """A page with its marked tables generated from the table of metrics."""
    definitions = [
        (f"`{name}`", _escaped(metric.definition), metric.unit, metric.source) for name, metric in METRICS.items()
    ]
    alike: dict[tuple[str, str, str], list[str]] = {}
    for name, metric in METRICS.items():
        alike.setdefault(metric.empty, []).append(f"`{name}`")
    tables = {
        "definitions": (("column", "definition", "range, unit", "source"), definitions),
        "empty masks": (
            ("metric", "both empty", "prediction empty (missed)", "reference empty (false alarm)"),
            [(", ".join(names), *values) for values, names in alike.items()],
        ),
    }
    for name, (columns, rows) in tables.items():
        before, mark, rest = page.partition(f"<!-- {name} of metrics -->\n")
        if mark:
            page = f"{before}{mark}{_rows(columns, rows)}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return page


def _section(con: duckdb.DuckDBPyConnection, view: str) -> str:
    columns = con.execute(f"DESCRIBE {view}").fetchall()
    return _table(
        f"## {view}", VIEW_SUMMARIES[view], [(row[0], row[1], column_meaning(view, row[0])) for row in columns]
    )


def _compare_section(con: duckdb.DuckDBPyConnection) -> str:
    columns = con.execute("DESCRIBE SELECT * FROM compare('BASE', 'NEW')").fetchall()
    text = (
        "Rows of two weights side by side: `SELECT * FROM compare('NAME', 'NAME@2')`. A name alone is its latest "
        "version with a run. Rows are paired by cohort, case, rater, structure, prompt_id and settings_id; of several "
        "pairs of runs with equal prompt and settings (older prompt code) the newest counts. A row needs one of both "
        "weights, scored or not."
    )
    return _table(
        "## compare(base, new)", text, [(row[0], row[1], column_meaning("compare", row[0])) for row in columns]
    )


def _table(title: str, text: str, rows: list[tuple[str, str, str]]) -> str:
    return "\n".join([title, "", text, "", _rows(("column", "type", "meaning"), rows), ""])


def _rows(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (columns, *rows)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


def column_meaning(view: str, column: str) -> str:
    """Meaning of a column of a view."""
    schema = _SCHEMAS.get(view)
    if schema is not None and column in schema.names:
        return _of_schema(schema, column)
    if view == "compare" and column == "in_training":
        return "true if one of the two was trained on this case"
    if view == "compare" and column == "distance_unit":
        return "mm or px"
    if column in _DERIVED:
        return _DERIVED[column]
    for side in ("base", "new"):
        if column.startswith(f"{side}_"):
            return f"{column.removeprefix(f'{side}_')} of {side.upper()}"
    if view == "failures" and column == "status":
        return "rejected, failed or crashed"
    if view == "medical_sam3_v1" and column.endswith("_mean"):
        return f"mean {column.removesuffix('_mean')} of counted rows"
    for suffix, meaning in _SUFFIXES.items():
        metric = column.removesuffix(suffix)
        if metric != column and metric in METRICS:
            unit = ", in distance_unit" if METRICS[metric].is_distance and suffix != "_n" else ""
            return f"{metric}: {meaning}{unit}"
    found = [schema for schema in (schemas.SCORES, *_SCHEMAS.values()) if column in schema.names]
    return _of_schema(found[0], column)


def _of_schema(schema: pa.Schema, column: str) -> str:
    field = schema.field(column)
    description: str = field.metadata[b"description"].decode()
    return _escaped(description)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
