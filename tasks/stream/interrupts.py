"""Ctrl-C at defined points only, since a library interrupted inside a call may be left in an inconsistent state.

For example in `distributed`, a `KeyboardInterrupt` between the submission of a coroutine and its first step makes the
event loop log a traceback, and the future is never cancelled.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block, then raise the KeyboardInterrupt; blocks may be nested.

    Only the main thread receives signals: in other threads, and if SIGINT has another handler, nothing changes.
    """
    held: list[int] = []

    def hold(signal_number: int, frame: FrameType | None) -> None:
        held.append(signal_number)

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if held:
            raise KeyboardInterrupt
