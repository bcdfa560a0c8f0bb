"""Every command that README, docs and `--help` show is one that the command line takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from flows.cli.entry import cli
from tests import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL_WORDS = {"|", ">", "&&", ";", "&"}


def shown(text: str) -> Iterator[str]:
    """Commands in the fenced blocks of a page, without what stands beside them in a second column."""
    for block in re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines = iter(block.replace("\\\n", " ").splitlines())
        for line in lines:
            command = line.strip().removeprefix("$ ")
            if command.startswith("medsam3 "):
                while command.count('"') % 2:
                    command += " " + next(lines)
                yield re.split(r'(?<=[^ "])   +(?=[a-z])', command)[0] if '"' not in command else command


def commands(group: click.Group = cli) -> list[click.Command]:
    nested = [commands(one) if isinstance(one, click.Group) else [one] for one in group.commands.values()]
    return [command for found in nested for command in found]


def parse(line: str) -> None:
    """Read a line as the command line would, and do nothing.

    Raises:
        click.UsageError: If there is no such command, option or choice, or one is missing.
    """
    words = shlex.split(line, comments=True)[1:]
    words = words[: next((place for place, word in enumerate(words) if word in SHELL_WORDS), len(words))]
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, words)
    command.make_context(name, words, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_are_taken(page: Path) -> None:
    for line in shown(page.read_text(encoding="utf-8")):
        parse(line)


def test_the_readme_shows_commands() -> None:
    assert len(list(shown(PAGES[0].read_text(encoding="utf-8")))) >= 7


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_the_help_of_every_command_has_examples_that_are_taken(command: click.Command) -> None:
    assert command.epilog
    for line in command.epilog.splitlines():
        parse(line.strip())


@pytest.mark.parametrize("line", ["medsam3 segmnt x", "medsam3 sql --formt csv 'SELECT 1'", "medsam3 predict a.png"])
def test_a_command_that_is_not_taken_is_found(line: str) -> None:
    with pytest.raises(click.UsageError, match=r"No such|Missing"):
        parse(line)
