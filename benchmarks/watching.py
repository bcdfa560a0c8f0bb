"""Wall time and resident memory of a process and of all that it starts, by looking at them again and again."""

import time

import psutil

_POLL_SECONDS = 0.2


class Watch:
    """Looks at a family of processes.

    Attributes:
        peak: Highest sum of the resident memory of all, in bytes.
        largest: Highest resident memory of any one of them.
        seen: All that were ever seen.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._started = time.perf_counter()
        self.peak = self.largest = 0
        self.seen: set[psutil.Process] = set()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self._started

    def look(self) -> None:
        """Take the memory of this moment into account, then wait a little."""
        sizes = [0]
        try:
            family = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        self.seen.update(family)
        for process in family:
            try:
                sizes.append(process.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        self.peak, self.largest = max(self.peak, sum(sizes)), max(self.largest, *sizes)
        time.sleep(_POLL_SECONDS)
