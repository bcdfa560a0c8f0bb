"""What is known about some weights without loading them; light to import, picklable, small."""

from dataclasses import dataclass

from medsam3_core.capabilities import Capabilities
from medsam3_core.public_weights import public_names


@dataclass(frozen=True, slots=True)
class Weights:
    """One version of named weights.

    Attributes:
        name: Name in the registry.
        version: 1, 2, ... under that name.
        sha256: Identity of the tensors.
        path: File or folder; None for baselines.
        layout: How the tensors were named in the file.
        capabilities: Which prompts they take.
        parameters: Number of parameters; 0 for baselines.
        note: What a reader must know (untrained, licence).
        added_at: UTC, ISO 8601.
        source: As the user gave it: a path, or an `hf://` location.
        revision: Commit of the Hugging Face repository; empty for local files.
        base: File or folder that an adapter is merged into; None for whole weights.
        matched: Keys of the file that hold a tensor of the architecture; 0 where nobody counted.
        dropped: Keys left out on purpose.
        drop_reasons: Why, each reason with the number of its keys.
        resolutions: Input sides in pixels that they take; empty where nobody looked.
        parents: `NAME@N:sha256` of all weights that they come from, nearest first; public ones by both names.
        training: Id of the training run that made them; its folder holds configuration and data digest.
    """

    name: str
    version: int
    sha256: str
    path: str | None
    layout: str
    capabilities: Capabilities
    parameters: int = 0
    note: str = ""
    added_at: str = ""
    source: str = ""
    revision: str = ""
    base: str | None = None
    matched: int = 0
    dropped: int = 0
    drop_reasons: tuple[str, ...] = ()
    resolutions: tuple[int, ...] = ()
    parents: tuple[str, ...] = ()
    training: str = ""

    @property
    def identities(self) -> frozenset[str]:
        """All that a case may be marked with if these weights have seen it: digests and names, their ancestors' too."""
        found = {self.name, self.sha256} | public_names(self.sha256, self.source, self.name)
        for parent in self.parents:
            named, _, sha256 = parent.rpartition(":")
            name = named.rpartition("@")[0]
            found |= {sha256, name} | public_names(sha256, "", name)
        return frozenset(found | public_names("", self.base or "", ""))
