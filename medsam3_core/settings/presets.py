"""Published protocols by name: the prompts and settings behind published numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medsam3_core.errors import UsageError
from medsam3_core.settings.inference import InferenceSettings


@dataclass(frozen=True, slots=True)
class Preset:
    """Prompt policies of a published toolkit, and its inference settings as `key=value`."""

    prompts: tuple[str, ...]
    settings: tuple[str, ...]

    @property
    def settings_id(self) -> str:
        """Id of the settings, which runs carry in the catalog."""
        return InferenceSettings.parse(self.settings).settings_id


MEDICAL_SAM3_V1 = "medical-sam3-v1"
PRESETS: Mapping[str, Preset] = {
    MEDICAL_SAM3_V1: Preset(("text", "box:per=structure"), ("merge=top", "threshold=0.1")),
}
"""`medical-sam3-v1`: the inference toolkit of January 2026. One box round all foreground, or the text of the dataset;
of the instances above 0.1 the one with the highest score. Its formulas and denominators are the view
`medical_sam3_v1`."""


def apply_preset(name: str, prompts: Sequence[str], settings: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Prompts and settings of a preset.

    Args:
        name: One of `PRESETS`.
        prompts: Policies to use of the preset's; none for all of them.
        settings: Settings given beside the preset; must be empty.

    Raises:
        UsageError: If the preset is unknown, or prompts or settings contradict it.
    """
    if name not in PRESETS:
        msg = f"unknown preset {name!r}; the presets are: {', '.join(PRESETS)}"
        raise UsageError(msg)
    preset = PRESETS[name]
    if settings:
        msg = f"preset {name} fixes the settings ({', '.join(preset.settings)}); leave out --set {settings[0]}"
        raise UsageError(msg)
    if strays := [prompt for prompt in prompts if prompt not in preset.prompts]:
        msg = f"preset {name} fixes the prompts ({' and '.join(preset.prompts)}); leave out --prompt {strays[0]}"
        raise UsageError(msg)
    return tuple(prompts) or preset.prompts, preset.settings
