"""Wall time and resident memory of a process and its descendants, by polling."""

import time

import psutil

_POLL_SECONDS = 0.2


class Watch:
    """Samples a process and its descendants.

    Attributes:
        peak: Highest sum of their resident memory, in bytes.
        largest: Highest resident memory of a single process, in bytes.
        seen: All processes seen so far.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._started = time.perf_counter()
        self.peak = self.largest = 0
        self.seen: set[psutil.Process] = set()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def look(self) -> None:
        """Take one sample, then wait for the polling interval."""
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
