"""All uses of private parts of Python's standard library.

`tests/flows/test_internals.py` fails when one of them changes.
"""

import atexit
import threading
from typing import Any


def run_exit_functions() -> None:
    """Run all functions registered with `atexit`, last first."""
    atexit._run_exitfuncs()


def forget_thread_exit_hooks(package: str) -> None:
    """Remove the functions of a package that Python calls before it joins threads at exit."""
    hooks: list[Any] = threading._threading_atexits  # type: ignore[attr-defined]
    hooks[:] = [hook for hook in hooks if not str(getattr(hook.func, "__module__", "")).startswith(f"{package}.")]
