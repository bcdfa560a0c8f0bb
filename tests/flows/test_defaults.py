"""Defaults of commands name things that exist."""

from flows.settings import defaults
from flows.settings.settings import named_cluster
from medsam3_core.prompts.policies import PromptKind
from storage.exports.registry import ExportCommand, format_named
from storage.sources.registry import AUTO


def test_the_defaults_of_commands_exist(tmp_path) -> None:
    assert format_named(defaults.FORMAT, ExportCommand.SEGMENT).name == defaults.FORMAT
    assert defaults.READER == AUTO
    assert PromptKind(defaults.PROMPT) is PromptKind.TEXT
    assert named_cluster(defaults.CLUSTER, tmp_path).kind == defaults.CLUSTER
