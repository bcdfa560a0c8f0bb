"""Which prompts some weights can take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Which prompts some weights can take."""

    text: bool
    box: bool
    interactive: bool = False
    propagation: bool = False

    @property
    def follows(self) -> bool:
        """Whether what is drawn on one slice can be followed through a volume, by a tracker or by detection."""
        return self.propagation or self.text
