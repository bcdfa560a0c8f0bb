"""Facts about weights that need no loading; light to import and picklable."""

from dataclasses import dataclass

from medsam3_core.capabilities import Capabilities
from medsam3_core.public_weights import public_names

HUB = "hf://"
"""Scheme of locations on the Hugging Face hub; kept here too because `checkpoints` imports torch."""


@dataclass(frozen=True, slots=True)
class Weights:
    """One version of named weights.

    Attributes:
        name: Name in the registry.
        version: 1, 2, ... under that name.
        sha256: Identity of the tensors.
        path: File or folder; None for baselines.
        layout: Layout of the tensor names in the file.
        capabilities: Accepted prompts.
        parameters: Number of parameters; 0 for baselines.
        note: Note for users (untrained, licence).
        added_at: UTC, ISO 8601.
        source: Path or `hf://` location as given by the user.
        revision: Commit of the Hugging Face repository; empty for local files.
        base: File or folder that an adapter is merged into; None for whole weights.
        matched: Keys of the file that hold a tensor of the architecture; 0 if not counted.
        dropped: Keys left out on purpose.
        drop_reasons: Reasons, each with the number of its keys.
        resolutions: Accepted input sides in pixels; empty if unknown.
        parents: `NAME@N:sha256` of all ancestors, nearest first; public ones by both names.
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
        """Digests and names of these weights and their ancestors: the possible marks of their training cases."""
        found = {self.name, self.sha256} | public_names(self.sha256, self.source, self.name)
        for parent in self.parents:
            named, _, sha256 = parent.rpartition(":")
            name = named.rpartition("@")[0]
            found |= {sha256, name} | public_names(sha256, "", name)
        return frozenset(found | public_names("", self.base or "", ""))
