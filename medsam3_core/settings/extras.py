"""Optional dependencies: each is installed by an extra of the package and checked before use."""

from enum import StrEnum
from importlib.util import find_spec

from medsam3_core.errors import UsageError


class Extra(StrEnum):
    """Extras of `pyproject.toml`."""

    AGENT = "agent"
    TRAIN = "train"
    DASHBOARD = "dashboard"


def lacking(extra: Extra, asker: str, *modules: str) -> str:
    """Sentence that names the missing modules and the extra that installs them; empty if none is missing.

    Args:
        extra: Extra of all the modules.
        asker: Command or setting that needs the modules.
        *modules: Names to import, without submodules; finding one does not import it.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if not missing:
        return ""
    verb = "is" if len(missing) == 1 else "are"
    return f'{asker} needs {" and ".join(missing)}, which {verb} not installed; run: pip install "medsam3[{extra}]"'


def require_extra(extra: Extra, asker: str, *modules: str) -> None:
    """Raise a `UsageError` with the sentence of `lacking` if a module is missing."""
    if sentence := lacking(extra, asker, *modules):
        raise UsageError(sentence)
