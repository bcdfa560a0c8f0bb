"""Run specs: the frozen identity of a run, with everything that can change a number."""

from dataclasses import asdict, dataclass

from medsam3_core.digests import short_digest

INFERENCE_CODE_VERSION = "4"
"""Raise it when the same weights, prompts and settings give different masks."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Weights, cohort, prompts and settings of a run; their digest is the run id.

    Attributes:
        cohort: Name of the cohort; its cases may grow.
        prompt_id: Policy, texts and version of the prompt code.
        inference_code: Version of the inference code.
    """

    weights_sha256: str
    cohort: str
    prompt_id: str
    settings_id: str
    inference_code: str = INFERENCE_CODE_VERSION

    @property
    def run_id(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON of this spec."""
        return short_digest(asdict(self))
