"""What we use of the insides of Python's standard library is as it was when we wrote for it."""

import subprocess
import sys

EXIT = """
import atexit, os
from flows.settings.python_internals import run_exit_functions
atexit.register(print, "first")
atexit.register(print, "last")
run_exit_functions()
print("ended", flush=True)
os._exit(0)
"""
HOOKS = """
import threading
from flows.settings.python_internals import forget_thread_exit_hooks
threading._register_atexit(print, "kept")
def asked(): print("dropped")
asked.__module__ = "prefect._internal.concurrency"
threading._register_atexit(asked)
forget_thread_exit_hooks("prefect")
"""


def answer(code: str) -> list[str]:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return ended.stdout.split()


def test_exit_functions_run_once_last_first_before_the_process_ends() -> None:
    assert answer(EXIT) == ["last", "first", "ended"]


def test_hooks_of_one_package_are_dropped_and_others_are_called() -> None:
    assert answer(HOOKS) == ["kept"]
