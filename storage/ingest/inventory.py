"""Inventory of a source: files that the recipe uses, knows, or cannot explain."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medsam3_core.cases.cases import CaseSource
from medsam3_core.cases.recipes import Recipe
from storage.sources.formats.volumes.registry import VOLUME_SUFFIXES
from storage.sources.listing.files import ARRAY_SUFFIXES, IMAGE_SUFFIXES, is_visible, visible_files, without_companions
from storage.store.locations import is_remote

_DATA_SUFFIXES = (*IMAGE_SUFFIXES, *VOLUME_SUFFIXES, *ARRAY_SUFFIXES)


@dataclass(frozen=True, slots=True)
class SourceInventory:
    """Files of a source.

    Attributes:
        total: All visible files.
        used: Files of cases.
        companions: Files that the recipe knows and that belong to no case.
        extra: Unexplained image and volume files.
        others: Number of other files by suffix (text, tables, documents).
        system: Files of operating systems (`.DS_Store`, `Thumbs.db`, ...).
    """

    total: int
    used: int
    companions: int
    extra: tuple[str, ...]
    others: dict[str, int]
    system: int


def take_inventory(source: Path, cases: Iterable[CaseSource], recipe: Recipe) -> SourceInventory:
    """Sort all files below a source folder by their role in a recipe; pseudo sources have none."""
    if not source.is_dir():
        return SourceInventory(0, 0, 0, (), {}, 0)
    used = {name for case in cases for name in (*case.image, *(n for names in case.references.values() for n in names))}
    files = visible_files(source, ("",))
    unused = [name for name in files if name not in used]
    unexplained = without_companions(unused, recipe.companions)
    extra = tuple(name for name in unexplained if name.lower().endswith(_DATA_SUFFIXES))
    other = (name for name in unexplained if not name.lower().endswith(_DATA_SUFFIXES))
    suffixes = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in other)
    companions = len(unused) - len(unexplained)
    return SourceInventory(
        len(files), len(used), companions, extra, dict(sorted(suffixes.items())), _system_files(source)
    )


def _system_files(source: Path) -> int:
    if is_remote(source):
        return 0
    return sum(not is_visible(name) for _, folders, names in os.walk(source) for name in (*folders, *names))
