"""On PYTHONPATH, makes reading certain files deadly: as a decoder that crashes, or one that asks for all memory.

`CURSED_FILES` names them (`name=kill` or `name=eat`, separated by colons). Python imports this module in every process
at its start, so it works in Dask's workers, and nothing in the product knows of it.
"""

import os
import signal
import sys

_CURSES = dict(item.split("=") for item in os.environ.get("CURSED_FILES", "").split(":") if item)


def _curse(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or not isinstance(arguments[0], str) or arguments[1] not in ("r", "rb", None):
        return
    curse = _CURSES.get(os.path.basename(arguments[0]))
    if curse == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    eaten = []
    while curse == "eat":
        eaten.append(bytearray(50_000_000))


if _CURSES:
    sys.addaudithook(_curse)
