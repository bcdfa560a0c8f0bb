"""How far raters of the same case agree: the line that no segmenter can be asked to pass."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pyarrow as pa

from medsam3_core.cases import CaseVolume
from medsam3_core.recipes import Recipe
from medsam3_core.scoring import PROTOCOL_VERSION, score_structure
from storage.parquet_tables import write_rows
from storage.store_layout import StoreLayout

_METRICS = ("dice", "iou", "nsd", "hd95", "assd", "cldice", "instance_f1", "pq")
_MEANINGS = {
    "cohort": "cohort",
    "case_id": "case",
    "case_digest": "digest of the case that was compared",
    "structure": "structure",
    "rater": "whose reference is taken as true",
    "other_rater": "whose reference is compared with it",
    "empty": "none, both, reference or prediction (the other rater): which mask is empty",
    "dice": "Dice of the two references",
    "iou": "intersection over union",
    "nsd": "normalised surface Dice at the structure's tolerance",
    "hd95": "95th percentile Hausdorff distance, in distance_unit",
    "assd": "average symmetric surface distance, in distance_unit",
    "cldice": "centreline Dice of tubular structures",
    "instance_f1": "at IoU 0.5",
    "pq": "panoptic quality",
    "distance_unit": "mm or px",
    "protocol": "version of metrics and empty-mask policy",
}
AGREEMENT = pa.schema(
    [
        pa.field(name, pa.float64() if name in _METRICS else pa.string(), metadata={"description": text})
        for name, text in _MEANINGS.items()
    ],
    metadata={"table": "agreement", "schema_version": "1"},
)


def agreement_rows(
    cohort: str, case_id: str, case_digest: str, volume: CaseVolume, recipe: Recipe
) -> list[dict[str, Any]]:
    """One row per structure and pair of raters, the one that comes first in the recipe taken as true."""
    rows = []
    for first, second in combinations(volume.references, 2):
        for structure in recipe.structures:
            by_instance = structure.instances
            score = score_structure(
                first.mask(structure.name),
                second.mask(structure.name),
                volume.geometry,
                structure=structure,
                reference_instances=first.instances(structure.name) if by_instance else None,
                prediction_instances=second.instances(structure.name) if by_instance else None,
            )
            columns = score.as_columns()
            rows.append(
                {name: columns[name] for name in (*_METRICS, "empty", "distance_unit")}
                | {
                    "cohort": cohort,
                    "case_id": case_id,
                    "case_digest": case_digest,
                    "structure": structure.name,
                    "rater": first.rater,
                    "other_rater": second.rater,
                    "protocol": PROTOCOL_VERSION,
                }
            )
    return rows


def write_agreement(store: StoreLayout, cohort: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows; those of another digest than the case has now are left out of the view."""
    if rows:
        write_rows(store.agreement(cohort), rows, AGREEMENT)
