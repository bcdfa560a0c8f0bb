"""What happens when accelerator memory runs out: smaller batches first, then the CPU; every step is noted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(eq=False)
class MemoryLadder:
    """Batch sizes of one kind of pass; they only ever shrink, so that memory runs out once, not on every slice.

    Attributes:
        kind: What is batched, for the notes: `images` or `prompts`.
        size: Items per pass.
        steps: What was done to fit, in order.
    """

    kind: str
    size: int
    steps: list[str] = field(default_factory=list)

    def run(self, items: Sequence[Item], compute: Callable[[list[Item]], list[Answer]]) -> list[Answer]:
        """Compute all items, halving the batch whenever memory runs out.

        Raises:
            torch.OutOfMemoryError: If a batch of one does not fit either.
        """
        answers: list[Answer] = []
        while len(answers) < len(items):
            batch = list(items[len(answers) : len(answers) + self.size])
            try:
                answers += compute(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self._halve(len(batch))
        return answers

    def _halve(self, tried: int) -> None:
        self.size = max(1, tried // 2)
        self.steps.append(f"{self.kind}-halved:{tried}>{self.size}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
