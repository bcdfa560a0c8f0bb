"""Training configurations: YAML in, a checked `TrainingPlan` out; every key is a field of the plan, but `extends`."""

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


def read_inherited(path: Path, shipped: Path) -> Any:
    """The content of a YAML file on top of the one that it extends.

    Mappings are merged key by key. So are the entries of a list that name a cohort each: an entry of the same cohort is
    merged, another one is added. Everything else replaces what stood there.

    Args:
        path: The file. What it extends is a file (relative to its folder) or a name in `shipped`.
        shipped: The folder of configurations that come with the product.

    Raises:
        UsageError: If a file is absent or no YAML, or extends itself; names the file.
    """
    return _read(path, shipped, ())


def _read(path: Path, shipped: Path, below: tuple[Path, ...]) -> Any:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"training configuration {path} cannot be read: {' '.join(str(error).split())}; give a YAML file"
        raise UsageError(msg) from None
    if not isinstance(content, Mapping) or _EXTENDS not in content:
        return content
    own = {key: value for key, value in content.items() if key != _EXTENDS}
    base = _found(str(content[_EXTENDS]), path, shipped)
    chain = (*below, path.resolve())
    if base.resolve() in chain:
        msg = f"training configuration {path} extends {content[_EXTENDS]}, which extends it in turn; name another one"
        raise UsageError(msg)
    return _on_top(_read(base, shipped, chain), own)


def _found(text: str, path: Path, shipped: Path) -> Path:
    beside = path.parent / text
    named = shipped / f"{text}.yaml"
    return named if not beside.is_file() and named.is_file() else beside


def _on_top(base: Any, own: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(own, Mapping):
        return {**base, **{key: _on_top(base.get(key), value) for key, value in own.items()}}
    if _names_cohorts(base) and _names_cohorts(own):
        changed = {one[_NAMED_BY]: one for one in own}
        kept = {one[_NAMED_BY]: _on_top(one, changed.pop(one[_NAMED_BY], {})) for one in base}
        return [*kept.values(), *changed.values()]
    return own


def _names_cohorts(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) and _NAMED_BY in one for one in value)
    )


SHIPPED_CONFIGS = Path(__file__).with_name("shipped")
"""Configurations of the weights that come with the product."""


def find_training_config(text: str) -> Path:
    """A file, or the name of a configuration that comes with the product."""
    shipped = SHIPPED_CONFIGS / f"{text}.yaml"
    return shipped if not Path(text).is_file() and shipped.is_file() else Path(text)


def read_training_config(path: Path) -> TrainingPlan:
    """Read and check a configuration, on top of the one that it extends.

    Raises:
        UsageError: If the file is absent or no YAML, or a key is unknown, missing, or of the wrong type or range;
            names the file, the key and what is expected.
    """
    content = read_inherited(path, SHIPPED_CONFIGS)
    try:
        plan: TrainingPlan = _build(TrainingPlan, content, "")
    except UsageError as error:
        msg = f"training configuration {path}: {error}"
        raise UsageError(msg) from None
    if not plan.cohorts:
        msg = f"training configuration {path}: cohorts is empty; name at least one cohort to learn from"
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
    if origin in (Union, types.UnionType):
        return _one_of(get_args(hint), value, at)
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, at)
    if origin is tuple:
        return _sequence(get_args(hint), value, at)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UsageError(_expected(at, "a mapping", value))
        return {str(key): _convert(get_args(hint)[1], item, f"{at}.{key}") for key, item in value.items()}
    return _scalar(hint, value, at)


def _one_of(hints: tuple[Any, ...], value: Any, at: str) -> Any:
    """An optional value: null, or the one other type."""
    if value is None and type(None) in hints:
        return None
    return _convert(next(hint for hint in hints if hint is not type(None)), value, at)


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
    if hint is float and isinstance(value, str):  # YAML reads 1e-4 as a text
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
