"""Settings are described at their fields; help and docs/reference/settings.md are made from them."""

from medsam3_core.settings.agent import AgentSettings
from medsam3_core.settings.described import described_fields, option_help
from medsam3_core.settings.inference import InferenceSettings


def test_every_setting_is_described() -> None:
    for settings, apart in ((InferenceSettings, {"agent"}), (AgentSettings, set())):
        assert described_fields(settings).keys() == set(settings.__dataclass_fields__) - apart


def test_the_help_of_an_option_ends_in_the_default() -> None:
    assert option_help(InferenceSettings, "tiles").endswith("1 is the whole slice.  [default: 1]")
