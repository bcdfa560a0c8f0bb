"""Batch sizes: about the same seconds of work each, learned from previous batches."""


class BatchSizer:
    """Chooses the number of cases in a batch: about `target_seconds` of work, smaller near the end."""

    def __init__(self, slots: int, *, target_seconds: float = 10.0, first: int = 2, largest: int = 500) -> None:
        self._slots = max(1, slots)
        self._target = target_seconds
        self._first = first
        self._largest = largest
        self._seconds_per_case: float | None = None

    def learn(self, cases: int, seconds: float) -> None:
        """Take a finished batch into account."""
        if cases:
            latest = max(seconds / cases, 1e-4)
            known = self._seconds_per_case
            self._seconds_per_case = latest if known is None else 0.6 * known + 0.4 * latest

    def next(self, remaining: int) -> int:
        """Size of the next batch, at least 1."""
        if self._seconds_per_case is None:
            size = self._first
        else:
            fair_share = -(-remaining // (3 * self._slots))
            size = min(round(self._target / self._seconds_per_case), fair_share, self._largest)
        return max(1, min(size, remaining))
