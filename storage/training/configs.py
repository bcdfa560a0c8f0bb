"""Training configurations: YAML files as checked `TrainingPlan`s; every key but `extends` is a field of the plan."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from medsam3_core.errors import UsageError
from medsam3_core.training.plans import TrainingPlan

_EXTENDS = "extends"
_NAMED_BY = "cohort"
SHIPPED_CONFIGS = Path(__file__).with_name("shipped")
"""Configurations of the shipped weights."""


def _read(path: Path, below: tuple[Path, ...] = ()) -> Any:
    """The content of a YAML file merged over the one that it extends: a file beside it, or a shipped name.

    Mappings are merged by key, lists of entries that name a cohort by cohort; anything else replaces the inherited
    value. `below` are the files that extend this one.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"training configuration {path} cannot be read: {' '.join(str(error).split())}; give a YAML file"
        raise UsageError(msg) from None
    if not isinstance(content, Mapping) or _EXTENDS not in content:
        return content
    own = {key: value for key, value in content.items() if key != _EXTENDS}
    base = _file_or_shipped(path.parent, str(content[_EXTENDS]))
    chain = (*below, path.resolve())
    if base.resolve() in chain:
        msg = f"training configuration {path} extends {content[_EXTENDS]}, which extends it in turn; name another one"
        raise UsageError(msg)
    return _merged(_read(base, chain), own)


def _file_or_shipped(folder: Path, text: str) -> Path:
    file, shipped = folder / text, SHIPPED_CONFIGS / f"{text}.yaml"
    return shipped if not file.is_file() and shipped.is_file() else file


def _merged(base: Any, own: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(own, Mapping):
        return {**base, **{key: _merged(base.get(key), value) for key, value in own.items()}}
    if _names_cohorts(base) and _names_cohorts(own):
        changed = {one[_NAMED_BY]: one for one in own}
        kept = {one[_NAMED_BY]: _merged(one, changed.pop(one[_NAMED_BY], {})) for one in base}
        return [*kept.values(), *changed.values()]
    return own


def _names_cohorts(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) and _NAMED_BY in one for one in value)
    )


def find_training_config(text: str) -> Path:
    """The configuration file at a path, or the shipped one of this name."""
    return _file_or_shipped(Path(), text)


def read_training_config(path: Path) -> TrainingPlan:
    """Read and check a configuration, merged over the one that it extends.

    Raises:
        UsageError: If a file is missing, not YAML, or extends itself, or a key is unknown, missing, or of the wrong
            type or range; names the file, the key and the expected value.
    """
    content = _read(path)
    try:
        plan: TrainingPlan = _build(TrainingPlan, content, "")
    except UsageError as error:
        msg = f"training configuration {path}: {error}"
        raise UsageError(msg) from None
    if not plan.cohorts:
        msg = f"training configuration {path}: cohorts is empty; name at least one cohort to train on"
        raise UsageError(msg)
    return plan


def _build(kind: type[Any], value: Any, at: str) -> Any:
    """A dataclass from a mapping."""
    if not isinstance(value, Mapping):
        msg = f"{at or 'the file'} holds {_shown(value)}; keys are expected: {_keys(kind)}"
        raise UsageError(msg)
    known = {field.name: field for field in fields(kind)}
    for key in value:
        if key not in known:
            msg = f"unknown key {_joined(at, str(key))}; known are: {_keys(kind)}"
            raise UsageError(msg)
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            msg = f"key {_joined(at, name)} is missing"
            raise UsageError(msg)
    hints = get_type_hints(kind)
    built = {str(key): _convert(hints[str(key)], item, _joined(at, str(key))) for key, item in value.items()}
    try:
        return kind(**built)
    except (UsageError, ValueError) as error:
        msg = f"{at or 'the file'}: {error}"
        raise UsageError(msg) from None


def _convert(hint: Any, value: Any, at: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):  # an optional value: null, or the one other type
        if value is None and type(None) in get_args(hint):
            return None
        return _convert(next(one for one in get_args(hint) if one is not type(None)), value, at)
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, at)
    if origin is tuple:
        return _sequence(get_args(hint), value, at)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UsageError(_expected(at, "a mapping", value))
        return {str(key): _convert(get_args(hint)[1], item, f"{at}.{key}") for key, item in value.items()}
    return _scalar(hint, value, at)


def _sequence(hints: tuple[Any, ...], value: Any, at: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise UsageError(_expected(at, "a list", value))
    if hints[-1] is Ellipsis:
        return tuple(_convert(hints[0], item, f"{at}[{index}]") for index, item in enumerate(value))
    if len(value) != len(hints):
        raise UsageError(_expected(at, f"a list of {len(hints)}", value))
    return tuple(_convert(hint, item, f"{at}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True)))


def _scalar(hint: type[Any], value: Any, at: str) -> Any:
    if issubclass(hint, StrEnum):
        if value not in tuple(hint):
            raise UsageError(_expected(at, f"one of {', '.join(hint)}", value))
        return hint(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            raise UsageError(_expected(at, "a number", value)) from None
    if type(value) is not hint:
        raise UsageError(_expected(at, {int: "a whole number", bool: "true or false", str: "a text"}[hint], value))
    return value


def _expected(at: str, what: str, value: Any) -> str:
    return f"key {at} takes {what}, got {_shown(value)}"


def _shown(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"


def _joined(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def _keys(kind: type[Any]) -> str:
    return ", ".join(field.name for field in fields(kind))
