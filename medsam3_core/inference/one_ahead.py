"""Preparation of the next item while the caller works on the current one."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def one_ahead(make: Callable[[Item], Made], items: Sequence[Item]) -> Iterator[tuple[Item, Made]]:
    """Each item with the result of `make`, in order; the next result is made in a thread meanwhile.

    At most two results exist at a time: the current one and the next one. An error of `make` is raised at its own item,
    so that items before it are not lost.
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
