"""Parts of Python's standard library that it does not promise to keep; all that we use of them enters here.

`tests/flows/test_internals.py` fails when one of them changes.
"""

import atexit
import threading
from typing import Any


def run_exit_functions() -> None:
    """Run what was registered with `atexit`, last first, as the end of the interpreter would."""
    atexit._run_exitfuncs()


def forget_thread_exit_hooks(package: str) -> None:
    """Drop the functions of a package that Python calls before it joins threads at its end."""
    hooks: list[Any] = threading._threading_atexits  # type: ignore[attr-defined]
    hooks[:] = [hook for hook in hooks if not str(getattr(hook.func, "__module__", "")).startswith(f"{package}.")]
