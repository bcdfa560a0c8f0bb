"""Check: read cases of a source and report findings; writes nothing."""

from collections.abc import Sequence

from medsam3_core.cases.cases import CaseSource
from medsam3_core.cases.recipes import Recipe
from storage.cohorts.checks import CaseCheck, check_case
from storage.sources.registry import layout_of
from storage.store.locations import location


def check_cases(source_root: str, recipe: Recipe, cases: Sequence[CaseSource]) -> list[CaseCheck]:
    """One check per case, in order; faults of the data end in the check."""
    layout = layout_of(recipe)
    return [check_case(layout, location(source_root), case, recipe) for case in cases]
