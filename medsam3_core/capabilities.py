"""Capabilities of weights: the prompts that they accept."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Prompts that weights accept."""

    text: bool
    box: bool
    interactive: bool = False
    propagation: bool = False

    @property
    def follows(self) -> bool:
        """True if objects drawn on one slice can be followed through a volume, by a tracker or by detection."""
        return self.propagation or self.text
