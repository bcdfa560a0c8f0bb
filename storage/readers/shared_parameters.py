"""What the parameters of several layouts share: path patterns, label values, raters, tables beside the data."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        msg = f"{pattern!r} is no regular expression: {error}"
        raise ValueError(msg) from None
    return pattern


def _has_key(pattern: str) -> str:
    if "key" not in re.compile(_compiles(pattern)).groupindex:
        msg = f"{pattern!r} needs a group (?P<key>...): what an image and its reference have in common"
        raise ValueError(msg)
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
"""Regular expression."""

PathPattern = Annotated[str, AfterValidator(_has_key)]
"""Regular expression that must match a whole path relative to the source (`/` between folders, case ignored)."""

LabelValue = Annotated[int, Field(gt=0)]


class Parameters(BaseModel):
    """No key that nobody reads, no change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyedTable(Parameters):
    """A CSV or TSV file beside the data that says something about each case.

    Attributes:
        file: Regular expression that its path must match whole.
        key: Column that names the case: the last part of its key, or a file name with that stem.
        value: Column with what is said.
    """

    file: Pattern
    key: str
    value: str


class RaterPattern(Parameters):
    """Where the references of one rater lie.

    Attributes:
        rater: Who drew them.
        pattern: Path pattern with the group `key`, equal to that of the image (and `split`, where the image has it).
    """

    rater: str = Field(default="reference", min_length=1)
    pattern: PathPattern


class LabelParameters(Parameters):
    """How values of a label map become structures.

    Attributes:
        label_values: Structure to its values; empty: the structures of the recipe have the values 1..n in their order.
        ignored_values: Values without meaning, scored as background (nnU-Net's `ignore`).
    """

    label_values: dict[str, Annotated[list[LabelValue], Field(min_length=1)]] = {}
    ignored_values: list[LabelValue] = []


class PairParameters(LabelParameters):
    """Files that belong together by a common key in their paths.

    Attributes:
        image: Path pattern of images with the group `key`; an optional group `split` names the split.
        references: One pattern per rater; the first is the primary rater, whose file every case must have. Empty:
            images without reference.
    """

    image: PathPattern
    references: list[RaterPattern] = []

    @model_validator(mode="after")
    def _raters_are_distinct(self) -> "PairParameters":
        raters = [reference.rater for reference in self.references]
        if len(set(raters)) != len(raters):
            msg = f"references names a rater twice: {raters}"
            raise ValueError(msg)
        return self


class FileParameters(PairParameters):
    """Pairs of files, with what other files beside the data say about them.

    Attributes:
        split_file: Regular expression for the path of a JSON file that maps splits to lists of keys.
        patient_table: Table that names the patient (or video sequence) of each case; used where the file exists.
    """

    split_file: Pattern | None = None
    patient_table: KeyedTable | None = None
