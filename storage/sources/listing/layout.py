"""Interface of a layout engine: recognise a source folder, list its cases cheaply, read one case."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.recipes import Recipe


class Layout(Protocol):
    """A file layout. Listing touches names and headers only; reading is called on workers, one case at a time.

    A layout with an attribute `beside` names files of the source that it reads for every case, where they exist.
    """

    name: str

    def recognise(self, source: Path) -> Recipe | None:
        """The recipe for this source if it has this layout, else None; must be quick and never raise on odd files."""
        ...

    def list_cases(self, source: Path, recipe: Recipe) -> list[CaseSource]:
        """All cases in sorted order of case_id, unusable ones with a `reject_reason`.

        Raises:
            UsageError: If the folder holds no case or its index file is broken; names file and remedy.
        """
        ...

    def read_case(self, source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
        """Image and references of one case.

        Raises:
            CaseDataError: If the data are unusable; names file, value and remedy.
        """
        ...


@runtime_checkable
class NamesStructures(Protocol):
    """A layout whose data name their structures."""

    def complete(self, source: Path, recipe: Recipe) -> Recipe:
        """The recipe, with the structures of this source if it has none.

        Raises:
            UsageError: If the source names no structure; names folder and remedy.
        """
        ...
