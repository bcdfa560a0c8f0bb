"""Ctrl-C at points of our own choice: a library that is interrupted in the middle of a call may leave a mess.

`distributed` is one of them: a `KeyboardInterrupt` between the submission of a coroutine and its first step makes its
event loop log a traceback, and the future is never cancelled.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block, then raise the KeyboardInterrupt; blocks may be nested.

    Only the main thread receives signals: elsewhere, and where somebody handles SIGINT already, nothing changes.
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
