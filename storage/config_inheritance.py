"""Configurations that say only what differs from another one: `extends: NAME_OR_FILE`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from medsam3_core.errors import UsageError

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
