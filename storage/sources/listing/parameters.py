"""The `parameters` that a recipe can give to each layout engine, validated when the recipe is loaded."""

import re
from enum import StrEnum
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from medsam3_core.cases.recipes import Recipe
from medsam3_core.errors import UsageError


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        msg = f"{pattern!r} is not a valid regular expression: {error}"
        raise ValueError(msg) from None
    return pattern


def _has_key(pattern: str) -> str:
    if "key" not in re.compile(pattern).groupindex:
        msg = f"{pattern!r} needs a group (?P<key>...): the part that an image and its reference have in common"
        raise ValueError(msg)
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
"""Regular expression."""
PathPattern = Annotated[Pattern, AfterValidator(_has_key)]
"""Regular expression that must match a whole path relative to the source (`/` between folders, case ignored)."""
LabelValue = Annotated[int, Field(gt=0)]


class Parameters(BaseModel):
    """Parameters of one layout: unknown keys are refused, values are fixed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyedTable(Parameters):
    """A CSV or TSV file beside the data with one value per case.

    Attributes:
        file: Regular expression that its whole path must match.
        key: Column that names the case: the last part of its key, or a file name with that stem.
        value: Column with the value.
    """

    file: Pattern
    key: str
    value: str


class RaterPattern(Parameters):
    """Location of the references of one rater.

    Attributes:
        rater: Name of the rater.
        pattern: Path pattern with the group `key`, equal to that of the image (and `split`, if the image has it).
    """

    rater: str = Field(default="reference", min_length=1)
    pattern: PathPattern


class LabelParameters(Parameters):
    """Mapping of label values to structures.

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
    """Pairs of files, with splits and patients from other files beside the data.

    Attributes:
        split_file: Regular expression for the path of a JSON file that maps splits to lists of keys.
        patient_table: Table that names the patient (or video sequence) of each case; used if the file exists.
    """

    split_file: Pattern | None = None
    patient_table: KeyedTable | None = None


class _FindsStructures(Parameters):
    """Layouts whose data name their structures."""


class InstanceRule(StrEnum):
    """Source of the instances of a 2D reference."""

    NONE = "none"
    COMPONENTS = "components"
    VALUES = "values"


class FillRule(StrEnum):
    """Meaning of a drawn mask: an area, a closed outline, or the outline of an ellipse that may leave the image."""

    NONE = "none"
    OUTLINE = "outline"
    ELLIPSE = "ellipse"


class ImagePairParameters(FileParameters):
    """Pairs of PNG, JPEG, TIFF, BMP, GIF or PNM.

    Attributes:
        mask_threshold: Grey values above it are the structure; for masks saved as JPEG. None: masks must be binary.
        label_colours: Structure to its colours (`#rrggbb`) in coloured masks; black is background.
        fill: Meaning of the drawn mask.
        instances: `components` makes each connected component (8 neighbours) an instance, `values` each value.
        instance_key: Array with one value per instance in `.mat`, `.npz` or `.h5` references.
        type_key: Array of the same shape with the label value of each pixel; an instance has its most frequent one.
        pixel_size_mm: Size of a pixel along y and x if all images have the same; None: unknown.
        pixel_size_table: Table with the size of a (square) pixel in mm; every image must be listed in it.
    """

    mask_threshold: Annotated[int, Field(ge=0)] | None = None
    label_colours: dict[str, list[Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]]] = {}
    fill: FillRule = FillRule.NONE
    instances: InstanceRule = InstanceRule.NONE
    instance_key: str | None = None
    type_key: str | None = None
    pixel_size_mm: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    pixel_size_table: KeyedTable | None = None


class SpacingOrder(StrEnum):
    """Order in which an array file gives its spacing."""

    XYZ = "xyz"
    ZYX = "zyx"


class ArrayParameters(FileParameters, _FindsStructures):
    """Images and label maps as named arrays in `.npz` or `.h5` files, one file per slice or volume.

    Attributes:
        image_key: Array with the image: (y, x), (z, y, x), or with colours last if the label map is (y, x).
        reference_key: Array with the label map; in the file of the image if `references` is empty.
        spacing_key: Array with the three spacings in mm; files without it are in pixels.
        spacing_order: Axes of the spacings.
        texts_key: Dictionary of label value to text that names the structures of its file; `instance_label` in it is 1
            if the values are instances of structure 1.
        texts: Structure to the texts that mean it; found in the data if the recipe has no structures.
    """

    image_key: str = "image"
    reference_key: str = "label"
    spacing_key: str | None = None
    spacing_order: SpacingOrder = SpacingOrder.XYZ
    texts_key: str | None = None
    texts: dict[str, list[str]] = {}


class BidsParameters(LabelParameters, _FindsStructures):
    """A BIDS dataset with `_dseg` label maps in its derivatives.

    Attributes:
        suffixes: Suffixes of the images that are segmented, the preferred one first.
        raters: Pipelines (folders of `derivatives`) or `desc` entities in order, primary first; others follow.
    """

    suffixes: list[str] = ["T1w", "T2w", "FLAIR", "PDw", "T2starw", "inplaneT1", "ct", "dwi", "bold"]
    raters: list[str] = []


class PolygonXmlParameters(Parameters):
    """Images with outlines in one XML file per patient.

    Attributes:
        image: Regular expression for whole paths of images with the groups `key`, `patient` and `image`.
        outlines: Regular expression for whole paths of XML files with the group `patient`.
    """

    image: PathPattern
    outlines: Pattern


class CocoParameters(_FindsStructures):
    """Images with instances in a COCO JSON file.

    Attributes:
        annotations: Regular expression that whole paths of annotation files must match.
        categories: Structure to the names of its categories; found in the files if the recipe has no structures.
    """

    annotations: Pattern = r".*\.json"
    categories: dict[str, list[str]] = {}


class NiftiPairParameters(FileParameters):
    """Pairs of volumes (NIfTI and its like).

    Attributes:
        channel: Volume of a 4D image to read, counted from 0; None: 4D is rejected.
    """

    channel: Annotated[int, Field(ge=0)] | None = None


class MsdParameters(LabelParameters, _FindsStructures):
    """Folders with a `dataset.json` of the Medical Segmentation Decathlon or nnU-Net.

    Attributes:
        dataset_name: `name` in the dataset.json that this recipe is for; None: any.
        channel: Channel to read, by number from 0 or by its name in the dataset.json; None: images with several are
            rejected.
    """

    dataset_name: str | None = None
    channel: Annotated[int, Field(ge=0)] | str | None = None


class InstanceMaskParameters(Parameters):
    """One folder per case that holds a folder with one image and a folder with one mask file per instance.

    Attributes:
        image_folder: Name of the folder with the image.
        mask_folder: Name of the folder with the masks.
        key_pattern: Regular expression that the whole path of a case folder must match; None: any.
    """

    image_folder: str = "images"
    mask_folder: str = "masks"
    key_pattern: Pattern | None = None


class ArchiveParameters(LabelParameters, _FindsStructures):
    """Trees of DICOM, volumes and images; the label values are for label maps that are volumes."""


class PhantomParameters(Parameters):
    """No parameters: SOURCE describes the phantoms."""


PARAMETERS: dict[str, type[BaseModel]] = {
    "archive": ArchiveParameters,
    "arrays": ArrayParameters,
    "bids": BidsParameters,
    "coco": CocoParameters,
    "image-pairs": ImagePairParameters,
    "instance-masks": InstanceMaskParameters,
    "nifti-pairs": NiftiPairParameters,
    "msd": MsdParameters,
    "phantom": PhantomParameters,
    "polygon-xml": PolygonXmlParameters,
}
"""Layout engine to the model of its parameters."""

_Model = TypeVar("_Model", bound=BaseModel)


def parameters_of(recipe: Recipe, model: type[_Model]) -> _Model:
    """The parameters of a recipe as the model of its layout.

    Raises:
        UsageError: If they are not valid for this layout; names the recipe and every wrong key.
    """
    try:
        return model.model_validate(recipe.parameters)
    except ValidationError as error:
        msg = f"recipe {recipe.name!r}, parameters of layout {recipe.layout!r}: {explain(error)}"
        raise UsageError(msg) from None


def explain(error: ValidationError) -> str:
    """Every wrong key with its place, the fault and the value found, separated by semicolons."""
    lines = []
    for item in error.errors(include_url=False):
        place = ".".join(map(str, item["loc"])) or "the whole file"
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {place!r}; remove it or correct its spelling")
        elif item["type"] == "missing":
            lines.append(f"key {place!r} is missing; add it")
        else:
            lines.append(f"key {place!r}: {item['msg']}, got {item['input']!r}")
    return "; ".join(lines)


def names_its_structures(parameters: BaseModel) -> bool:
    """True if the layout finds the structures in the data, so that a recipe may omit them."""
    return isinstance(parameters, _FindsStructures)
