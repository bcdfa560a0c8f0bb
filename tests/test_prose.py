"""House rules of prose, as far as a machine can hold them: first words of docstrings, dialect, names of constants."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

PACKAGES = ("medsam3", "medsam3_core", "storage", "tasks", "flows", "dashboards")
FIRST_WORDS_REFUSED = {"What", "Whether", "How", "Who", "Whose"}
DIALECT = re.compile(r"\b(nobody|told|stands|anew|spoken|whatever is)\b", re.IGNORECASE)
SUPERLATIVE = re.compile(r"^_?(MOST|LARGEST|LONGEST|HIGHEST|LOWEST|SMALLEST|FEWEST|LEAST)_")


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def docstrings(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, those under class fields and constants too."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(found))) if found.strip():
                yield node.lineno, found


def refused_openings(text: str) -> list[str]:
    return [f"{line}: {found}" for line, found in docstrings(text) if found.split()[0] in FIRST_WORDS_REFUSED]


def dialect(text: str) -> list[str]:
    """Words of the dialect in comments and strings; names in code are not prose."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            found += [f"{token.start[0]}: {word}" for word in DIALECT.findall(token.string)]
    return found


def superlatives(text: str) -> list[str]:
    names = (node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name))
    return sorted({name for name in names if SUPERLATIVE.match(name)})


@pytest.mark.parametrize("rule", [refused_openings, dialect, superlatives], ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("package", PACKAGES)
def test_prose_follows_the_house_rules(package: str, rule) -> None:
    found = {str(path.relative_to(ROOT)): broken for path in sources(package) if (broken := rule(path.read_text()))}
    assert not found


def test_each_rule_sees_what_it_is_for() -> None:
    text = 'MOST_CASES = 3\n"""What nobody was told."""\n'
    assert refused_openings(text)
    assert dialect(text) == ["2: nobody", "2: told"]
    assert superlatives(text) == ["MOST_CASES"]
