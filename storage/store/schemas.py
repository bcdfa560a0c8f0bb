"""Arrow schemas of all tables: the source of writers, views and docs; every column has its description."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

from medsam3_core.metrics.table import METRICS, Metric
from storage.store.versions import SCHEMA_VERSION


def versioned_schema(table: str, *columns: tuple[str, pa.DataType, str]) -> pa.Schema:
    """The schema of a table from name, type and description of its columns."""
    fields = [pa.field(name, kind, metadata={"description": text}) for name, kind, text in columns]
    return pa.schema(fields, metadata={"table": table, "schema_version": SCHEMA_VERSION})


def _columns_of(metrics: Iterable[Metric]) -> Iterator[tuple[str, pa.DataType, str]]:
    for metric in metrics:
        yield metric.name, pa.float64(), metric.definition + (", in distance_unit" if metric.is_distance else "")


_TIME = pa.timestamp("us")

CASES = versioned_schema(
    "cases",
    ("cohort", pa.string(), "cohort that the case belongs to"),
    ("case_id", pa.string(), "slug, unique in the cohort"),
    ("patient_id", pa.string(), "cluster for statistics"),
    ("split", pa.string(), "train, test, ...; NULL without splits"),
    ("status", pa.string(), "accepted or rejected"),
    ("reason", pa.string(), "why it was rejected"),
    ("case_digest", pa.string(), "SHA-256 over image, references and the recipe's part"),
    ("modality", pa.string(), "CT, MR, fundus, microscopy, ..."),
    ("ndim", pa.int8(), "2 for one slice, else 3"),
    ("size_z", pa.int32(), "voxels along z"),
    ("size_y", pa.int32(), "voxels along y"),
    ("size_x", pa.int32(), "voxels along x"),
    ("spacing_z", pa.float64(), "voxel spacing along z, in distance_unit"),
    ("spacing_y", pa.float64(), "voxel spacing along y, in distance_unit"),
    ("spacing_x", pa.float64(), "voxel spacing along x, in distance_unit"),
    ("distance_unit", pa.string(), "mm, or px where the spacing is unknown"),
    ("raters", pa.list_(pa.string()), "raters with a reference, the primary one first"),
    ("structures", pa.list_(pa.string()), "structures that the primary reference holds"),
    ("in_training", pa.list_(pa.string()), "weights (sha256 or name) that were trained on this case"),
    ("source", pa.string(), "first image file, relative to the source folder"),
    ("source_root", pa.string(), "source folder as given at ingest"),
    ("source_fingerprint", pa.string(), "digest of names, sizes and times of the source files"),
    ("ingested_at", _TIME, "UTC"),
)

PROMPTS = versioned_schema(
    "prompts",
    ("cohort", pa.string(), "cohort"),
    ("prompt_id", pa.string(), "digest of policy, texts and prompt code"),
    ("prompt", pa.string(), "canonical policy"),
    ("privileged", pa.bool_(), "true if the policy reads the reference"),
    ("case_digest", pa.string(), "digest of the case that the prompts were made from"),
    ("case_id", pa.string(), "case"),
    ("slice", pa.int32(), "z index; NULL on the row of a case that gets no prompt"),
    ("structure", pa.string(), "structure"),
    ("instance", pa.int32(), "instance from 1; 0 for the structure as a whole"),
    ("kind", pa.string(), "text, box, points, mask, request; none on the row of a case that gets no prompt"),
    ("text", pa.string(), "text of the prompt"),
    ("x0", pa.float64(), "first column inside the box"),
    ("y0", pa.float64(), "first row inside the box"),
    ("x1", pa.float64(), "one past the last column"),
    ("y1", pa.float64(), "one past the last row"),
    ("x", pa.float64(), "column of a point"),
    ("y", pa.float64(), "row of a point"),
    ("label", pa.int8(), "1 positive, 0 negative"),
    ("mask_rle", pa.list_(pa.int32()), "run lengths of a mask, row-major, starting with background"),
)

TRAINING = versioned_schema(
    "training",
    ("cohort", pa.string(), "cohort of the case"),
    ("case_id", pa.string(), "case; its pixels stay in the store"),
    ("case_digest", pa.string(), "digest of the case"),
    ("patient_id", pa.string(), "patient; one patient is in one split"),
    ("split", pa.string(), "train or validation"),
    ("slice", pa.int32(), "z index"),
    ("rater", pa.string(), "rater of the learned reference"),
    ("concept", pa.string(), "structure of the recipe, or several together"),
    ("structures", pa.list_(pa.string()), "structures of the recipe that belong to it"),
    ("text", pa.string(), "text of the prompt"),
    ("synonyms", pa.list_(pa.string()), "alternative texts"),
    ("present", pa.bool_(), "false for a negative: the concept is not on the slice and the answer is nothing"),
    (
        "instances",
        pa.list_(
            pa.struct([(name, pa.int32()) for name in ("instance", "label_value", "x0", "y0", "x1", "y1", "area")])
        ),
        "per instance its number, its value in the label map (0: all of the concept), its half-open box and its pixels",
    ),
)

PLAN = versioned_schema(
    "plan",
    ("run_id", pa.string(), "run"),
    ("case_id", pa.string(), "case"),
    ("rater", pa.string(), "rater of the reference"),
    ("structure", pa.string(), "structure"),
    ("planned_at", _TIME, "UTC"),
)

OUTCOMES = versioned_schema(
    "outcomes",
    ("run_id", pa.string(), "run"),
    ("case_id", pa.string(), "case"),
    ("attempt", pa.string(), "id of the batch that worked on it"),
    ("case_digest", pa.string(), "digest of the case at that time"),
    ("status", pa.string(), "scored, segmented, rejected, failed or crashed"),
    ("reason", pa.string(), "reason of any other status than scored or segmented"),
    ("seconds_read", pa.float64(), "reading and decoding the volume"),
    ("seconds_prompt", pa.float64(), "reading or making prompts"),
    ("seconds_segment", pa.float64(), "encoding and segmentation, shared by the runs of one pass"),
    ("seconds_score", pa.float64(), "metrics"),
    ("seconds_write", pa.float64(), "writing the prediction"),
    ("device", pa.string(), "cpu, cuda:0, ..."),
    ("dtype", pa.string(), "precision that was used"),
    ("fallbacks", pa.string(), "measures to fit memory or limits, empty if none were needed"),
    ("worker", pa.string(), "worker process"),
    ("finished_at", _TIME, "UTC"),
)

SCORES = versioned_schema(
    "scores",
    ("run_id", pa.string(), "run"),
    ("attempt", pa.string(), "id of the batch that made the prediction"),
    ("weights", pa.string(), "name of the weights"),
    ("weights_version", pa.int32(), "version under that name"),
    ("weights_sha256", pa.string(), "identity of the weights"),
    ("cohort", pa.string(), "cohort"),
    ("split", pa.string(), "split of the case"),
    ("in_training", pa.bool_(), "true if the weights, or those that they come from, were trained on this case"),
    ("case_id", pa.string(), "case"),
    ("case_digest", pa.string(), "digest of image, references and recipe part"),
    ("patient_id", pa.string(), "cluster for statistics"),
    ("modality", pa.string(), "modality"),
    ("ndim", pa.int8(), "2 or 3"),
    ("rater", pa.string(), "rater of the reference"),
    ("structure", pa.string(), "structure"),
    ("prompt", pa.string(), "canonical prompt policy"),
    ("prompt_id", pa.string(), "digest of policy, texts and prompt code"),
    ("settings_id", pa.string(), "digest of the inference settings"),
    ("privileged", pa.bool_(), "true if the prompts were made from the reference"),
    ("status", pa.string(), "scored, rejected, failed or crashed"),
    ("reason", pa.string(), "why there is no score"),
    ("empty", pa.string(), "none, both, reference or prediction: which mask is empty"),
    *_columns_of(METRICS.values()),
    ("nsd_tolerance", pa.float64(), "in distance_unit"),
    ("distance_unit", pa.string(), "mm or px"),
    ("reference_volume", pa.float64(), "in volume_unit"),
    ("prediction_volume", pa.float64(), "in volume_unit"),
    ("volume_error", pa.float64(), "(prediction - reference) / reference"),
    ("volume_unit", pa.string(), "ml, mm2, px or voxel"),
    ("instances_reference", pa.int32(), "instances in the reference"),
    ("instances_prediction", pa.int32(), "instances in the prediction"),
    ("true_positive", pa.int64(), "voxels in reference and prediction; NULL in files of before this column"),
    ("false_positive", pa.int64(), "voxels of the prediction alone"),
    ("false_negative", pa.int64(), "voxels of the reference alone"),
    ("true_negative", pa.int64(), "voxels of neither"),
    ("confidence", pa.float64(), "mean score of the predicted instances"),
    ("finished_at", _TIME, "UTC"),
    ("protocol", pa.string(), "version of metrics and empty-mask policy"),
)

RUNS = versioned_schema(
    "runs",
    ("run_id", pa.string(), "digest of the spec"),
    ("weights", pa.string(), "name of the weights"),
    ("weights_version", pa.int32(), "version under that name"),
    ("weights_sha256", pa.string(), "identity of the weights"),
    (
        "weights_identities",
        pa.list_(pa.string()),
        "marks of cases that these weights, or those that they come from, "
        "learned from: digests and names; NULL in runs of before this column",
    ),
    ("cohort", pa.string(), "cohort"),
    ("prompt", pa.string(), "canonical prompt policy"),
    ("prompt_id", pa.string(), "digest of policy, texts and prompt code"),
    ("privileged", pa.bool_(), "true if the prompts were made from the reference"),
    ("settings", pa.string(), "settings that differ from the defaults"),
    ("settings_id", pa.string(), "digest of all settings"),
    ("inference_code", pa.string(), "version of the inference code"),
    ("git_commit", pa.string(), "commit of the product, NULL outside a checkout"),
    ("machine", pa.string(), "host, processor and cores that started the run"),
    ("versions", pa.string(), "JSON of package versions"),
    ("created_at", _TIME, "UTC"),
)

MEASUREMENTS = versioned_schema(
    "measurements",
    ("run_id", pa.string(), "run"),
    ("attempt", pa.string(), "id of the batch that made the prediction"),
    ("case_id", pa.string(), "case"),
    ("structure", pa.string(), "structure"),
    ("volume", pa.float64(), "size of the prediction, in volume_unit"),
    ("volume_unit", pa.string(), "ml, mm2, px or voxel"),
    ("z0", pa.int32(), "first slice of the bounding box; NULL if the prediction is empty, as all below"),
    ("y0", pa.int32(), "first row of the bounding box"),
    ("x0", pa.int32(), "first column of the bounding box"),
    ("z1", pa.int32(), "one past the last slice"),
    ("y1", pa.int32(), "one past the last row"),
    ("x1", pa.int32(), "one past the last column"),
    ("intensity_mean", pa.float64(), "mean of the image inside the prediction, in the image's own unit"),
    ("intensity_p05", pa.float64(), "5th percentile of the image inside the prediction"),
    ("intensity_p50", pa.float64(), "median of the image inside the prediction"),
    ("intensity_p95", pa.float64(), "95th percentile of the image inside the prediction"),
    ("confidence", pa.float64(), "mean score of the predicted instances"),
)

EXPORTS = versioned_schema(
    "exports",
    ("run_id", pa.string(), "run"),
    ("case_id", pa.string(), "case"),
    ("attempt", pa.string(), "id of the batch whose prediction was written"),
    ("format", pa.string(), "format by name, as medsam3 segment --format takes it"),
    ("anonymous", pa.bool_(), "true if names of patients were left out"),
    ("claim", pa.string(), "claim of the folder under which it was written; NULL before there were claims"),
    (
        "status",
        pa.string(),
        "released, empty where there is nothing to write, failed, or damaged: its prediction cannot be read",
    ),
    ("path", pa.string(), "file or folder that was released; NULL where none was"),
    ("reason", pa.string(), "why nothing was released"),
    ("contested", pa.int64(), "voxels that two structures claimed and one got; 0 where structures may overlap"),
    ("largest_shift_mm", pa.float64(), "largest shift of a centroid between prediction and file read back"),
    ("released_at", _TIME, "UTC"),
)

_STATISTICS = (
    ("n", "values"), ("mean", "mean over rows"), ("centre", "mean over patients"),
    ("half", "half width of the 95 % interval"), ("median", "median over rows"),
)  # fmt: skip
GROUPS = versioned_schema(
    "groups",
    ("run_id", pa.string(), "run"),
    ("cases", pa.int64(), "current outcomes of the run when the groups were made"),
    ("fingerprint", pa.string(), "group key: digest of these outcomes and their cases; the groups hold while it stays"),
    ("protocol", pa.string(), "version of metrics and empty-mask policy"),
    ("groups_version", pa.string(), "version of the statistics"),
    ("split", pa.string(), "split of the cases"),
    ("structure", pa.string(), "structure"),
    ("rater", pa.string(), "rater of the reference"),
    ("scored", pa.int64(), "rows with a score"),
    ("failed", pa.int64(), "rows that ended as rejected, failed or crashed"),
    ("in_training", pa.int64(), "rows on cases that the weights were trained on"),
    ("present", pa.int64(), "rows behind the means"),
    ("absent", pa.int64(), "scored rows whose reference does not hold the structure"),
    ("absent_correct", pa.int64(), "absent rows with an empty prediction"),
    ("missed", pa.int64(), "failed rows that count as zero"),
    ("distance_unit", pa.string(), "mm or px; NULL where counted rows are in both, as is all that has a unit"),
    *(
        (f"{metric}_{name}", pa.int64() if name == "n" else pa.float64(), f"{meaning} of {metric}")
        for metric in METRICS
        for name, meaning in _STATISTICS
    ),
)

TRACES = versioned_schema(
    "traces",
    ("run_id", pa.string(), "run"),
    ("case_id", pa.string(), "case"),
    ("attempt", pa.string(), "id of the batch that worked on it"),
    ("structure", pa.string(), "requested structure"),
    ("step", pa.int32(), "position within the case, from 0"),
    ("turn", pa.int32(), "turn of the conversation, from 1; 0 outside one"),
    ("kind", pa.string(), "request, model, tool, decision, fault, cap or answer"),
    ("text", pa.string(), "the event in a sentence"),
    ("tool", pa.string(), "tool that was called"),
    ("arguments", pa.string(), "JSON of its arguments as they were used"),
    ("result", pa.string(), "JSON of its result, or of the answer"),
    ("model", pa.string(), "language model that answered"),
    ("endpoint", pa.string(), "host of the request"),
    ("request_digest", pa.string(), "SHA-256 of the request"),
    ("reply", pa.string(), "JSON of the whole answer of the model, from which a run is replayed"),
    ("tokens_in", pa.int32(), "tokens sent"),
    ("tokens_out", pa.int32(), "tokens received"),
    ("cost", pa.float64(), "cost by the price table; NULL if no price is known"),
    ("seconds", pa.float64(), "time it took"),
    ("images", pa.list_(pa.string()), "SHA-256 of every picture that was sent"),
)

AGREEMENT = versioned_schema(
    "agreement",
    ("cohort", pa.string(), "cohort"),
    ("case_id", pa.string(), "case"),
    ("case_digest", pa.string(), "digest of the case that was compared"),
    ("structure", pa.string(), "structure"),
    ("rater", pa.string(), "rater whose reference is taken as true"),
    ("other_rater", pa.string(), "rater whose reference is compared with it"),
    ("empty", pa.string(), "none, both, reference or prediction (the other rater): which mask is empty"),
    *_columns_of(metric for metric in METRICS.values() if metric.symmetric),
    ("distance_unit", pa.string(), "mm or px"),
    ("protocol", pa.string(), "version of metrics and empty-mask policy"),
)
