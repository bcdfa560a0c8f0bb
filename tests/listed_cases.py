"""The cases of a source by id, for who needs its files again after ingest."""

from medsam3_core.cases.cases import CaseSource
from medsam3_core.cases.recipes import Recipe
from storage.sources.registry import layout_of
from storage.store.locations import location


def cases_of_source(root: str, recipe: Recipe) -> dict[str, CaseSource]:
    """Case id to its files, as the source lists them now."""
    return {case.case_id: case for case in layout_of(recipe).list_cases(location(root), recipe)}
