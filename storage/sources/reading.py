"""One case read whole, wherever its source lies: layouts read files of this machine, so objects are fetched first."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.recipes import Recipe
from medsam3_core.errors import CaseDataError
from storage.sources.listing.layout import Layout
from storage.store.locations import is_remote, local_copies


@runtime_checkable
class ReadsBeside(Protocol):
    """A layout that looks at files of the source that are of no single case."""

    beside: tuple[str, ...]
    """Paths relative to the source; those that are not there are left out."""


def read_case(layout: Layout, source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
    """Image and references of one case; the copies of its objects are gone when it has been read.

    Raises:
        CaseDataError: If the data are unusable, or an object is gone; names it as it is called in the source.
    """
    if not is_remote(source):
        return layout.read_case(source, case, recipe)
    with local_copies(source, [*files_of(case), *_beside(layout)], missing_ok=True) as folder:
        try:
            return layout.read_case(folder, case, recipe)
        except CaseDataError as error:
            raise type(error)(str(error).replace(str(folder), str(source))) from error


def files_of(case: CaseSource) -> list[str]:
    """All files of a case, paths relative to the source."""
    return [*case.image, *(name for names in case.references.values() for name in names)]


def _beside(layout: Layout) -> tuple[str, ...]:
    return layout.beside if isinstance(layout, ReadsBeside) else ()
