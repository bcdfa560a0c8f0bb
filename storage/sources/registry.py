"""Choose the reader of a source: by name, by recipe file, or by the files in the folder."""

from dataclasses import dataclass, field
from pathlib import Path

from medsam3_core.cases.cases import CaseSource
from medsam3_core.cases.recipes import Recipe
from medsam3_core.errors import UsageError
from storage.sources.layouts.archive import Archive
from storage.sources.layouts.arrays import Arrays
from storage.sources.layouts.bids import Bids
from storage.sources.layouts.coco import Coco
from storage.sources.layouts.image_pairs import ImagePairs
from storage.sources.layouts.instance_masks import InstanceMasks
from storage.sources.layouts.msd import Msd
from storage.sources.layouts.nifti_pairs import NiftiPairs
from storage.sources.layouts.phantom import PREFIX, Phantom, PhantomSource
from storage.sources.layouts.polygon_xml import PolygonXml
from storage.sources.listing.files import Listings, listed_once
from storage.sources.listing.layout import Layout, NamesStructures
from storage.sources.listing.recipes import builtin_recipes, load_recipe
from storage.store.locations import absolute, location

AUTO = "auto"

_ANY_TREE = frozenset({"nifti-pairs", "image-pairs", "msd"})
"""Layouts that list only images with a reference if there are references; `archive` lists every image."""

_ARCHIVE = Archive()
_ENGINES: tuple[Layout, ...] = (
    Phantom(),
    Msd(),
    Bids(),
    Coco(),
    _ARCHIVE,
    InstanceMasks(),
    NiftiPairs(),
    PolygonXml(),
    Arrays(),
    ImagePairs(),
)
LAYOUTS = {layout.name: layout for layout in _ENGINES}
"""Layout engines by name, in the order in which `auto` tries them."""


def reader_names() -> list[str]:
    """Values of `--reader`: `auto`, the layouts and the built-in recipes."""
    return [AUTO, *LAYOUTS, *builtin_recipes()]


@dataclass(frozen=True, slots=True)
class Source:
    """A source with its reader, resolved once.

    Attributes:
        root: Absolute source folder, or the text that describes phantoms.
        recipe: Its recipe, which names the layout.
        listings: Listings made while the reader was resolved, see `listed_once`.
    """

    root: str
    recipe: Recipe
    listings: Listings = field(default_factory=dict, repr=False, compare=False)

    def list_cases(self) -> list[CaseSource]:
        """All cases, as `Layout.list_cases` gives them."""
        with listed_once(self.listings):
            return layout_of(self.recipe).list_cases(location(self.root), self.recipe)


def find_source(
    source: str, reader: str = AUTO, recipe_file: Path | None = None, *, every_image: bool = False
) -> Source:
    """A source with its reader; arguments and errors are those of `find_reader`.

    With `every_image` the reader lists every image, labelled or not, unless reader or recipe are chosen by name.
    """
    with listed_once() as listings:
        layout, recipe = find_reader(source, reader, recipe_file)
        if every_image and reader == AUTO and layout.name in _ANY_TREE and recipe.name not in builtin_recipes():
            _, recipe = _recognise(location(source), _ARCHIVE.name)
        return Source(source if source.startswith(PREFIX) else absolute(source), recipe, listings)


@listed_once()
def find_reader(source: str, reader: str = AUTO, recipe_file: Path | None = None) -> tuple[Layout, Recipe]:
    """The engine and the recipe for a source.

    Args:
        source: A folder, or a text such as `phantom:ct,cases=12`.
        reader: `auto`, the name of a layout, or the name of a recipe.
        recipe_file: A recipe to use instead of a built-in one.

    Raises:
        UsageError: If the source is missing, empty or not recognised, the reader does not exist, or reader and recipe
            contradict each other; lists the known readers.
    """
    if reader not in reader_names():
        msg = f"unknown reader {reader!r}; choose one of {', '.join(reader_names())}"
        raise UsageError(msg)
    _check_source(source)
    path = location(source)
    if recipe_file is not None:
        recipe = load_recipe(recipe_file)
        if reader not in (AUTO, recipe.layout, recipe.name):
            msg = f"reader {reader!r} contradicts {recipe_file}, whose layout is {recipe.layout!r}; omit --reader"
            raise UsageError(msg)
        return _completed(path, recipe)
    if reader in builtin_recipes():
        return _completed(path, builtin_recipes()[reader])
    return _recognise(path, reader)


def layout_of(recipe: Recipe) -> Layout:
    """The engine that reads cases of a recipe.

    Raises:
        UsageError: If the layout is unknown; lists the known ones.
    """
    if recipe.layout not in LAYOUTS:
        msg = f"recipe {recipe.name!r} has the unknown layout {recipe.layout!r}; choose one of {', '.join(LAYOUTS)}"
        raise UsageError(msg)
    return LAYOUTS[recipe.layout]


def _completed(path: Path, recipe: Recipe) -> tuple[Layout, Recipe]:
    layout = LAYOUTS[recipe.layout]
    return layout, layout.complete(path, recipe) if isinstance(layout, NamesStructures) else recipe


def _recognise(path: Path, reader: str) -> tuple[Layout, Recipe]:
    for layout in LAYOUTS.values():
        if reader in (AUTO, layout.name) and (recipe := layout.recognise(path)):
            return layout, recipe
    if reader == _ARCHIVE.name and (recipe := _ARCHIVE.recipe_of(path)):
        return _ARCHIVE, recipe
    tried = ", ".join(LAYOUTS) if reader == AUTO else reader
    msg = (
        f"{path} matches no known layout (tried {tried}); choose one with --reader or describe it with --recipe FILE. "
        f"Readers: {', '.join(reader_names())}"
    )
    raise UsageError(msg)


def _check_source(source: str) -> None:
    if source.startswith(PREFIX):
        PhantomSource.parse(source)
        return
    path = location(source)
    if not path.exists():
        msg = f"source {source} does not exist; give a folder or a phantom such as phantom:ct"
        raise UsageError(msg)
    if not path.is_dir():
        msg = f"source {source} is a file; give the folder that holds the cases"
        raise UsageError(msg)
    try:
        is_empty = not any(not entry.name.startswith(".") for entry in path.iterdir())
    except OSError as error:
        msg = f"source {source} cannot be read: {error.strerror}; check its permissions"
        raise UsageError(msg) from error
    if is_empty:
        msg = f"source {source} is an empty folder; give the folder that holds the cases"
        raise UsageError(msg)
