"""Layout `phantom`: generated cases; the source is a text such as `phantom:ct,cases=12,seed=0,size=12x96x96`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from medsam3_core.cases.cases import CaseSource, CaseVolume
from medsam3_core.cases.recipes import Recipe
from medsam3_core.errors import UsageError
from medsam3_core.phantoms import PhantomKind, phantom_case, phantom_recipe

PREFIX = "phantom:"

_SEEDS_PER_DATASET = 1_000_000
_EXAMPLE = "phantom:ct,cases=12,seed=0,size=12x96x96"


@dataclass(frozen=True, slots=True)
class PhantomSource:
    """A parsed source text.

    Attributes:
        kind: Kind of phantom.
        cases: Number of cases; the last quarter, at least one of several, is the split `test`.
        seed: Seed of the dataset; datasets of different seeds share no case.
        shape_zyx: Size in voxels, or None for the default of the kind.
    """

    kind: PhantomKind
    cases: int = 12
    seed: int = 0
    shape_zyx: tuple[int, int, int] | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `phantom:KIND[,cases=N][,seed=S][,size=ZxYxX]`; images may give `size=YxX`.

        Raises:
            UsageError: If the kind or an option does not exist or a value is out of range; lists the valid ones.
        """
        kind_text, *options = text.removeprefix(PREFIX).split(",")
        try:
            kind = PhantomKind(kind_text)
        except ValueError:
            msg = f"unknown phantom {kind_text!r} in {text!r}; choose one of {', '.join(PhantomKind)} as in {_EXAMPLE}"
            raise UsageError(msg) from None
        given = dict(option.partition("=")[::2] for option in options)
        if unknown := sorted(given.keys() - {"cases", "seed", "size"}):
            msg = f"unknown option {unknown[0]!r} in {text!r}; options are cases, seed and size as in {_EXAMPLE}"
            raise UsageError(msg)
        try:
            cases, seed = int(given.get("cases", "12")), int(given.get("seed", "0"))
            shape = _parse_size(given["size"]) if "size" in given else None
        except ValueError:
            cases, seed, shape = 0, 0, None
        if not 1 <= cases <= _SEEDS_PER_DATASET or seed < 0:
            msg = f"{text!r}: cases takes 1 to {_SEEDS_PER_DATASET}, seed 0 or more, size ZxYxX as in {_EXAMPLE}"
            raise UsageError(msg)
        return cls(kind, cases, seed, shape)

    def split(self, index: int) -> str:
        """`test` for the last quarter (at least one of two or more), else `train`."""
        return "test" if index >= self.cases - max(self.cases // 4, int(self.cases > 1)) else "train"

    def key(self, index: int) -> str:
        """Name of one case, also in files of written phantoms."""
        return f"{self.kind}_{index:03d}"

    def draw(self, index: int) -> CaseVolume:
        """Image and references of one case."""
        return phantom_case(self.kind, self.seed * _SEEDS_PER_DATASET + index, shape_zyx=self.shape_zyx)


class Phantom:
    """Engine of the layout `phantom`; the source is a text, not a folder."""

    name = "phantom"

    def recognise(self, source: Path) -> Recipe | None:
        """The recipe of the kind; None for other sources."""
        if not str(source).startswith(PREFIX):
            return None
        try:
            return phantom_recipe(PhantomSource.parse(str(source)).kind)
        except UsageError:
            return None

    def list_cases(self, source: Path, recipe: Recipe) -> list[CaseSource]:
        """Cases `KIND_000`, `KIND_001`, ..., each of a separate patient."""
        phantoms = _parse_for(source, recipe)
        return [
            CaseSource(phantoms.key(i), phantoms.key(i), phantoms.split(i), (), extra={"index": i})
            for i in range(phantoms.cases)
        ]

    def read_case(self, source: Path, case: CaseSource, recipe: Recipe) -> CaseVolume:
        """Generate the case."""
        return _parse_for(source, recipe).draw(int(case.extra["index"]))


def _parse_for(source: Path, recipe: Recipe) -> PhantomSource:
    phantoms = PhantomSource.parse(str(source))
    if recipe.name != phantom_recipe(phantoms.kind).name:
        msg = f"source {str(source)!r} does not match the reader {recipe.name!r}; use the reader phantom"
        raise UsageError(msg)
    return phantoms


def _parse_size(text: str) -> tuple[int, int, int]:
    sizes = [int(part) for part in text.split("x")]
    depth, height, width = [1, *sizes] if len(sizes) == 2 else sizes
    return depth, height, width
