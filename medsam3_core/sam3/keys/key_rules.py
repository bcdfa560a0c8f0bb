"""Apply the key table: official names to `transformers` names and back."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch

from medsam3_core.sam3.keys.key_table import DROPPED_ON_PURPOSE, Op, Rule

Tensors = Mapping[str, torch.Tensor]

_PLACEHOLDERS = {"n": r"\d+", "p": "weight|bias", "s": ".+"}


@dataclass(frozen=True, slots=True)
class Translation:
    """Target of one official tensor: `targets` in order of the parts, `part` the index inside a joined tensor."""

    rule: Rule
    targets: tuple[str, ...]
    part: int = 0


def translate(official: str, rules: tuple[Rule, ...]) -> Translation | None:
    """Look up one official name; None where no rule knows it."""
    for pattern, rule in _compiled(rules):
        if match := pattern.fullmatch(official):
            found = match.groupdict()
            targets = tuple(target.format(**found) for target in rule.targets)
            return Translation(rule, targets, int(found["n"]) if rule.op is Op.JOIN else 0)
    return None


def drop_reason(official: str) -> str | None:
    """Reason to leave out an official tensor; None if it is kept."""
    for template, reason in DROPPED_ON_PURPOSE.items():
        if _pattern(template).fullmatch(official):
            return reason
    return None


def to_transformers(tensors: Tensors, rules: tuple[Rule, ...]) -> dict[str, torch.Tensor]:
    """Rename and reshape official tensors, as views where possible; a name without a rule raises KeyError."""
    renamed: dict[str, torch.Tensor] = {}
    joined: dict[str, dict[int, torch.Tensor]] = defaultdict(dict)
    for official, tensor in tensors.items():
        translation = translate(official, rules)
        if translation is None:
            msg = f"no rule for {official!r}"
            raise KeyError(msg)
        if translation.rule.op is Op.JOIN:
            joined[translation.targets[0]][translation.part] = tensor
        else:
            renamed |= zip(translation.targets, _forward(tensor, translation), strict=True)
    for target, parts in joined.items():
        rows = [parts[index] for index in sorted(parts)]
        alike = len({(row.shape[1:], row.dtype) for row in rows}) == 1
        renamed[target] = torch.cat(rows, dim=0) if alike else rows[0]  # the shape check reports mismatches
    return renamed


def to_official(tensors: Tensors, rules: tuple[Rule, ...]) -> dict[str, torch.Tensor]:
    """Restore official names of `transformers` tensors; a name without a rule raises KeyError."""
    gathered: dict[str, dict[int, torch.Tensor]] = defaultdict(dict)
    origin: dict[str, Rule] = {}
    for name, tensor in tensors.items():
        rule, part, official = _official_name(name, rules)
        gathered[official][part] = tensor
        origin[official] = rule
    restored: dict[str, torch.Tensor] = {}
    for official, parts in gathered.items():
        restored |= _backward(official, [parts[index] for index in sorted(parts)], origin[official])
    return restored


def official_names(names: Iterable[str], rules: tuple[Rule, ...]) -> list[str]:
    """Official names behind `transformers` names, for messages; a name without a rule stays as it is."""
    found: dict[str, None] = {}
    for name in names:
        try:
            found[_official_name(name, rules)[2]] = None
        except KeyError:
            found[name] = None
    return list(found)


def _forward(tensor: torch.Tensor, translation: Translation) -> tuple[torch.Tensor, ...]:
    match translation.rule.op:
        case Op.SPLIT:
            parts = len(translation.targets)
            if tensor.shape[0] % parts:  # the shape check reports it
                return (tensor,) * parts
            return tensor.chunk(parts, dim=0)
        case Op.TRANSPOSE:
            return (tensor.T,) if tensor.ndim == 2 else (tensor,)
        case Op.DROP_CLS:
            return (tensor[:, 1:],) if tensor.ndim == 3 else (tensor,)
        case _:
            return (tensor,) * len(translation.targets)


def _backward(official: str, parts: list[torch.Tensor], rule: Rule) -> dict[str, torch.Tensor]:
    match rule.op:
        case Op.SPLIT:
            return {official: torch.cat(parts, dim=0)}
        case Op.JOIN:
            rows = parts[0].split(1, dim=0)
            return {official.format(n=index): row for index, row in enumerate(rows)}
        case Op.TRANSPOSE:
            return {official: parts[0].T.contiguous()}
        case Op.DROP_CLS:
            return {official: torch.cat([torch.zeros_like(parts[0][:, :1]), parts[0]], dim=1)}
        case _:
            return {official: parts[0]}


def _official_name(name: str, rules: tuple[Rule, ...]) -> tuple[Rule, int, str]:
    for pattern, rule, part in _compiled_backwards(rules):
        if match := pattern.fullmatch(name):
            found = match.groupdict() | ({"n": "{n}"} if rule.op is Op.JOIN else {})
            return rule, part, rule.official.format(**found)
    msg = f"no rule leads to {name!r}"
    raise KeyError(msg)


@cache
def _compiled(rules: tuple[Rule, ...]) -> tuple[tuple[re.Pattern[str], Rule], ...]:
    return tuple((_pattern(rule.official), rule) for rule in rules)


@cache
def _compiled_backwards(rules: tuple[Rule, ...]) -> tuple[tuple[re.Pattern[str], Rule, int], ...]:
    return tuple((_pattern(target), rule, part) for rule in rules for part, target in enumerate(rule.targets))


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """A template as an anchored pattern; the first use of a placeholder captures, a later one repeats it."""
    literal = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    seen: set[str] = set()

    def capture(found: re.Match[str]) -> str:
        name = found[1]
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return f"(?P<{name}>{_PLACEHOLDERS[name]})"

    return re.compile(re.sub(r"\{(\w)\}", capture, literal))
