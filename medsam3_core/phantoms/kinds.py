"""Kinds of phantoms: structures with their texts, modality, intensity policy, and the structure that a case lacks."""

from enum import StrEnum

from medsam3_core.cases.recipes import Recipe
from medsam3_core.cases.structures import Structure


class PhantomKind(StrEnum):
    """Kinds of images that phantoms imitate."""

    CT = "ct"
    MR = "mr"
    FUNDUS = "fundus"
    NUCLEI = "nuclei"
    ULTRASOUND = "ultrasound"
    ENDOSCOPY = "endoscopy"
    DERMOSCOPY = "dermoscopy"
    XRAY = "xray"
    SHAPES = "shapes"


class Form(StrEnum):
    """Outlines of `shapes`, by their names in texts."""

    DISC = "disc"
    OVAL = "oval"
    POLYGON = "polygon"
    BLOB = "blob"
    RING = "ring"
    TUBE = "tube"


class Look(StrEnum):
    """Contrasts of a shape with its surroundings, by their names in texts."""

    BRIGHT = "bright"
    DARK = "dark"
    TEXTURED = "textured"


_FORM_WORDS = {
    Form.DISC: ("circle", "round spot"),
    Form.OVAL: ("ellipse",),
    Form.POLYGON: ("angular shape",),
    Form.BLOB: ("irregular patch",),
    Form.RING: ("annulus", "hollow circle"),
    Form.TUBE: ("branching line", "curved line"),
}
_LOOK_WORDS = {Look.BRIGHT: "light", Look.DARK: "black", Look.TEXTURED: "patterned"}


def shape_name(look: Look, form: Form) -> str:
    """Name of the structure that holds shapes of this look and form."""
    return f"{look}_{form}"


def _shape_structures() -> tuple[Structure, ...]:
    """Every look of every form, every form and every look: a shape belongs to three of them."""
    both = [
        Structure(
            shape_name(look, form),
            f"{look} {form}",
            synonyms=(f"{_LOOK_WORDS[look]} {form}", *(f"{look} {word}" for word in _FORM_WORDS[form])),
            instances=True,
            tubular=form is Form.TUBE,
        )
        for form in Form
        for look in Look
    ]
    forms = [Structure(form, form, _FORM_WORDS[form], instances=True, tubular=form is Form.TUBE) for form in Form]
    looks = [Structure(look, f"{look} shape", (f"{look} object", f"{look} region"), instances=True) for look in Look]
    return (*both, *forms, *looks)


_STRUCTURES: dict[PhantomKind, tuple[Structure, ...]] = {
    PhantomKind.CT: (
        Structure("liver", "liver"),
        Structure("spleen", "spleen"),
        Structure("kidney_left", "left kidney"),
        Structure("kidney_right", "right kidney"),
        Structure("aorta", "aorta", synonyms=("abdominal aorta",)),
    ),
    PhantomKind.MR: (
        Structure("ventricle", "lateral ventricle", synonyms=("ventricle of the brain",)),
        Structure("hippocampus_left", "left hippocampus"),
        Structure("hippocampus_right", "right hippocampus"),
        Structure("tumour", "brain tumour", synonyms=("brain tumor",)),
    ),
    PhantomKind.FUNDUS: (
        Structure("vessel", "retinal blood vessel", synonyms=("blood vessel",), tubular=True),
        Structure("optic_disc", "optic disc", synonyms=("optic nerve head",)),
    ),
    PhantomKind.NUCLEI: (Structure("nucleus", "cell nucleus", synonyms=("nucleus",), instances=True),),
    PhantomKind.ULTRASOUND: (
        Structure("nodule", "nodule", synonyms=("hypoechoic nodule", "tumour"), instances=True),
        Structure("cyst", "cyst", synonyms=("anechoic cyst",), instances=True),
    ),
    PhantomKind.ENDOSCOPY: (Structure("polyp", "polyp", synonyms=("colon polyp",), instances=True),),
    PhantomKind.DERMOSCOPY: (Structure("lesion", "skin lesion", synonyms=("mole", "pigmented lesion")),),
    PhantomKind.XRAY: (
        Structure("lung_left", "left lung"),
        Structure("lung_right", "right lung"),
        Structure("heart", "heart", synonyms=("cardiac silhouette",)),
    ),
    PhantomKind.SHAPES: _shape_structures(),
}
MODALITIES = {
    PhantomKind.CT: "CT",
    PhantomKind.MR: "MR",
    PhantomKind.FUNDUS: "fundus",
    PhantomKind.NUCLEI: "microscopy",
    PhantomKind.ULTRASOUND: "ultrasound",
    PhantomKind.ENDOSCOPY: "endoscopy",
    PhantomKind.DERMOSCOPY: "dermoscopy",
    PhantomKind.XRAY: "X-ray",
    PhantomKind.SHAPES: "shapes",
}
_WINDOWS = {PhantomKind.CT: "ct:60,500", PhantomKind.MR: "percentile:0.5,99.5"}

_VOLUME, _PICTURE = (12, 96, 96), (1, 128, 128)
DEFAULT_SHAPES_ZYX: dict[PhantomKind, tuple[int, int, int]] = {
    kind: _VOLUME if kind in _WINDOWS else _PICTURE for kind in PhantomKind
}


def phantom_structures(kind: PhantomKind) -> tuple[Structure, ...]:
    """Structures of a kind in fixed order; the label values 1..n of volumes follow it."""
    return _STRUCTURES[kind]


def absent_structure(kind: PhantomKind, seed: int) -> str | None:
    """Name of the structure that this case lacks: one in every fifth seed (4, 9, 14, ...), None otherwise.

    Volumes lack each structure in turn; a retina lacks the optic disc (out of view), a nuclei field every nucleus.
    Shapes are drawn freely: every picture lacks most of the concepts, chosen at random.
    """
    if seed % 5 != 4 or kind is PhantomKind.SHAPES:
        return None
    if kind is PhantomKind.FUNDUS:
        return "optic_disc"
    structures = _STRUCTURES[kind]
    return structures[(seed // 5) % len(structures)].name


def phantom_recipe(kind: PhantomKind) -> Recipe:
    """The recipe under which phantoms of this kind are read; its name is `phantom-KIND`."""
    return Recipe(
        name=f"phantom-{kind}",
        layout="phantom",
        structures=_STRUCTURES[kind],
        modality=MODALITIES[kind],
        window=_WINDOWS.get(kind, "identity"),
        licence="CC0 1.0",
        citation="Generated by medsam3",
        traps=("Drawn from ellipses, tubes and noise; a score on it says nothing about patients.",),
    )
