"""How long a training run goes on, and how a step is put together."""

from dataclasses import dataclass

from medsam3_core.errors import UsageError


@dataclass(frozen=True, slots=True)
class LoopPlan:
    """How long and how.

    Attributes:
        steps: Optimiser steps in all.
        batch: Slices per step and process.
        accumulate: Passes that one step adds up.
        bf16: Whether the passes run in bf16 (on accelerators).
        gradient_checkpointing: Trade time for memory.
        workers: Processes that make samples; 0 makes them in between.
        log_every: Steps between lines of the log.
        save_every: Steps between checkpoints, with everything that resuming needs.
        keep: Checkpoints that are kept.
    """

    steps: int = 1000
    batch: int = 8
    accumulate: int = 1
    bf16: bool = False
    gradient_checkpointing: bool = False
    workers: int = 1
    log_every: int = 20
    save_every: int = 200
    keep: int = 2

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch, self.accumulate, self.log_every, self.save_every, self.keep)
        if min(counts) < 1 or self.workers < 0:
            msg = f"steps, batch, accumulate, log_every, save_every and keep must be at least 1, workers 0; got {self}"
            raise UsageError(msg)
