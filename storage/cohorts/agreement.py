"""Agreement of raters of the same case: the ceiling for a segmenter's scores."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from medsam3_core.cases.cases import CaseVolume
from medsam3_core.cases.recipes import Recipe
from medsam3_core.metrics.protocol_version import PROTOCOL_VERSION
from medsam3_core.metrics.scoring import score_structure
from storage.store.layout import StoreLayout
from storage.store.schemas import AGREEMENT
from storage.store.tables import write_rows


def agreement_rows(
    cohort: str, case_id: str, case_digest: str, volume: CaseVolume, recipe: Recipe
) -> list[dict[str, Any]]:
    """One row per structure and pair of raters; the rater listed first in the recipe is the reference."""
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
                {name: columns[name] for name in AGREEMENT.names if name in columns}
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
    """Add rows; the view leaves out rows of outdated case digests."""
    if rows:
        write_rows(store.agreement(cohort), rows, AGREEMENT)
