"""What is known about the names of one structure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Term:
    """A structure and all that it is called.

    Attributes:
        name: Stable name.
        text: The plain name that weights are asked for.
        plain: Further plain names, of other recipes: asked as they stand when they are asked for.
        synonyms: Other English names and spellings.
        latin: Latin names.
        foreign: Names in other languages.
        described: What it does or what it is, in a clinician's or a layman's words.
        paired: Whether there is one on each side of the body.
        parent: Name of the term that it is a part of.
        finding: Whether it is something that may be absent (a lesion), so that it can be sought inside an organ.
    """

    name: str
    text: str
    plain: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    latin: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    described: tuple[str, ...] = ()
    paired: bool = False
    parent: str | None = None
    finding: bool = False

    @property
    def plain_names(self) -> tuple[str, ...]:
        """Names that weights are asked for as they stand."""
        return (self.text, *self.plain)

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every name, plain ones first."""
        return (*self.plain_names, *self.synonyms, *self.latin, *self.foreign, *self.described)
