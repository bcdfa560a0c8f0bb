"""Read one case from a folder or a bucket. Layouts read local files, so objects of a bucket are fetched first."""

from pathlib import Path

from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.recipes import Recipe
from medsam3_core.errors import CaseDataError
from storage.sources.listing.layout import Layout
from storage.store.locations import is_remote, local_copies


def read_case(layout: Layout, source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
    """Image and references of one case; local copies of objects are deleted afterwards.

    Raises:
        CaseDataError: If the data are unusable, or an object is missing; names the object in the source.
    """
    if not is_remote(source):
        return layout.read_case(source, case, recipe)
    case_files = [*case.image, *(name for names in case.references.values() for name in names)]
    shared_files: tuple[str, ...] = getattr(layout, "beside", ())
    with local_copies(source, [*case_files, *shared_files], missing_ok=True) as folder:
        try:
            return layout.read_case(folder, case, recipe)
        except CaseDataError as error:
            raise type(error)(str(error).replace(str(folder), str(source))) from error
