"""Settings say at their fields what they do; the documentation repeats them to the letter."""

import pytest

from medsam3_core.settings.agent import AgentSettings
from medsam3_core.settings.described import described_fields, option_help, settings_table
from medsam3_core.settings.inference import InferenceSettings
from tests import ROOT


@pytest.mark.parametrize(("page", "settings"), [("prompts.md", InferenceSettings), ("agent.md", AgentSettings)])
def test_a_page_has_every_setting_with_its_default_and_words(page: str, settings: type) -> None:
    assert "\n".join(settings_table(settings)) in (ROOT / "docs" / page).read_text(encoding="utf-8").replace(
        "| `agent_...`, `share_pixels` | | of the policy `agent`: [agent.md](agent.md#a-language-model) |\n", ""
    )


def test_every_setting_is_described() -> None:
    for settings, apart in ((InferenceSettings, {"agent"}), (AgentSettings, set())):
        assert described_fields(settings).keys() == set(settings.__dataclass_fields__) - apart


def test_the_help_of_an_option_ends_in_the_default() -> None:
    assert option_help(InferenceSettings, "tiles").endswith("1 is the whole slice.  [default: 1]")
