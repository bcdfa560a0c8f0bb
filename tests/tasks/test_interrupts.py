import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tasks.stream.interrupts import interrupts_held


@pytest.fixture(autouse=True)
def interrupts_heard() -> Iterator[None]:
    """As in a terminal: a shell that starts pytest in the background ignores SIGINT for it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_for_the_end_of_the_block() -> None:
    steps = []

    def work() -> None:
        with interrupts_held():
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("finished")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["finished"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_outer_of_two_blocks_decides() -> None:
    steps = []

    def work() -> None:
        with interrupts_held():
            with interrupts_held():
                os.kill(os.getpid(), signal.SIGINT)
            steps.append("outer went on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["outer went on"]


def test_without_an_interrupt_nothing_is_raised() -> None:
    with interrupts_held():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_thread_of_its_own_changes_no_signal_handler() -> None:
    seen = []

    def look() -> None:
        with interrupts_held():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
