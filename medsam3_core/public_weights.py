"""Public weights by the names that recipes use; recognition of registered weights as public ones."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PublicWeights:
    """Published weights.

    Attributes:
        title: Name for people.
        repositories: Hugging Face repositories (`owner/name`) that hold them or a copy.
        sha256: Digests (or their first digits, at least 8) of published files.
        trained_on: Known training data, in a sentence.
    """

    title: str
    repositories: tuple[str, ...]
    sha256: tuple[str, ...]
    trained_on: str


PUBLIC_WEIGHTS: Mapping[str, PublicWeights] = {
    "sam3": PublicWeights(
        "SAM 3 (Meta)", ("facebook/sam3",), (), "SA-Co images and videos; its authors name no medical dataset."
    ),
    "medical-sam3": PublicWeights(
        "Medical SAM3, released January 2026",
        ("ChongCong/Medical-SAM3", "Potestates/medsam3_stage1_text_full"),
        (),
        "33 datasets of 10 modalities, not listed one by one; its own tables call CHASE_DB1, STARE, CVC-ClinicDB, "
        "ETIS-Larib and PH2 external.",
    ),
    "medical-sam3-3d": PublicWeights(
        "Medical SAM3, 3D stage",
        (),
        ("6e40bbaa",),
        "The training part of CVPR BiomedSegFM, as its published training configuration lists.",
    ),
}


def public_names(sha256: str, source: str, name: str) -> set[str]:
    """Public names of registered weights: by digest, by the repository that they came from, or by their own name.

    Args:
        sha256: Identity of the tensors.
        source: Where they were registered from, such as `hf://owner/name/file`.
        name: Name in the registry.
    """
    location = source.removeprefix("hf://").casefold()
    found = {name} & set(PUBLIC_WEIGHTS)
    for public, weights in PUBLIC_WEIGHTS.items():
        is_from = source.startswith("hf://") and any(
            location == item.casefold() or location.startswith(f"{item.casefold()}/") for item in weights.repositories
        )
        if is_from or any(sha256.startswith(digest) for digest in weights.sha256):
            found.add(public)
    return found
