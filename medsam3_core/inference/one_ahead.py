"""Make the next thing while the caller works on the current one."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def one_ahead(make: Callable[[Item], Made], items: Sequence[Item]) -> Iterator[tuple[Item, Made]]:
    """Each item with what `make` gives for it, in order; the next one is made in a thread meanwhile.

    At most two results live at a time: the one in hand and the one that waits. What `make` raises is raised when its
    item comes up, so that items before it are not lost.
    """
    if len(items) < 2:  # nothing to overlap with
        yield from ((item, make(item)) for item in items)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="one-ahead") as thread:
        coming = thread.submit(make, items[0])
        for number, item in enumerate(items):
            made = coming.result()
            if number + 1 < len(items):
                coming = thread.submit(make, items[number + 1])
            yield item, made
