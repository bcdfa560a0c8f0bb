"""The network in memory: built on first use, rebuilt for another precision or resolution.

When accelerator memory runs out, batches get smaller first, then work moves to the CPU; every step is recorded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from medsam3_core.sam3.network.concept import TextEncoder
from medsam3_core.sam3.network.encoder import SliceEncoding
from medsam3_core.sam3.network.heads import SliceHeads
from medsam3_core.sam3.network.network import Sam3Network, Sam3Weights, build_network
from medsam3_core.sam3.tensors.precision import Precision, precision_for, without_autocast
from medsam3_core.sam3.tensors.tokenizer import TextTokenizer
from medsam3_core.settings.inference import Dtype, InferenceSettings

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_PER_PASS = {"cpu": 1, "cuda": 8}
"""Slices and prompts per pass: batching gains nothing on a CPU and costs memory."""
_CPU = "cpu"


@dataclass(eq=False)
class MemoryLadder:
    """Batch size of one kind of pass (`images` or `prompts`), and the fallbacks taken, in order.

    The size only shrinks, so that memory runs out once, not on every slice.
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
                self.size = len(batch) // 2
                self.steps.append(f"{self.kind}-halved:{len(batch)}>{self.size}")
                _free_cuda_memory()
        return answers


class LoadedNetwork:
    """At most one network in memory, with its text features and the feature maps of the current slice."""

    def __init__(
        self,
        weights: Sam3Weights,
        device: str,
        allow_cpu: bool,
        images_per_pass: int | None,
        prompts_per_pass: int | None,
    ) -> None:
        per_pass = _PER_PASS.get(torch.device(device).type, 1)
        self.device = device
        self.images = MemoryLadder("images", images_per_pass or per_pass)
        self.prompts = MemoryLadder("prompts", prompts_per_pass or per_pass)
        self._wanted_device = device
        self.weights = weights.without_tensors()
        self._tensors: Sam3Weights | None = weights
        self._allow_cpu = allow_cpu
        self._tokenizer = TextTokenizer(weights.vocabulary)
        self._network: Sam3Network | None = None
        self._text_encoder: TextEncoder | None = None
        self._heads: SliceHeads | None = None

    @property
    def kind_of_device(self) -> str:
        """`cpu` or `cuda`, as requested: their bf16 kernels round differently."""
        return torch.device(self._wanted_device).type

    def precision(self, dtype: Dtype) -> Precision:
        """Precision of a setting on the requested device; a move to the CPU does not change it."""
        return precision_for(dtype, self._wanted_device)

    def network_for(self, settings: InferenceSettings) -> Sam3Network:
        """The network in the precision and resolution of the settings.

        Raises:
            UsageError: If the weights do not take the resolution.
        """
        precision = self.precision(settings.dtype)
        resolution = self.weights.architecture.at(settings.resolution).resolution
        network = self._network
        if network is None or network.precision != precision or network.architecture.resolution != resolution:
            self._unload()  # frees the old one before the new one is built
            network = self._or_on_cpu(lambda: self._build(precision, resolution))
            self._network, self._text_encoder = network, TextEncoder(network, self._tokenizer)
        return network

    def heads_on(self, encoding: SliceEncoding, settings: InferenceSettings) -> SliceHeads:
        """The heads on one slice; repeated calls for a slice reuse its feature maps."""
        network = self.network_for(settings)
        if self._heads is None or self._heads.encoding is not encoding:
            assert self._text_encoder is not None
            self._heads = None
            self._heads = SliceHeads(network, self._text_encoder, encoding)
        return self._heads

    def run(
        self, ladder: MemoryLadder, items: Sequence[Item], compute: Callable[[list[Item]], list[Answer]]
    ) -> list[Answer]:
        """Compute items in passes that fit into memory: smaller batches first, then on the CPU if allowed.

        Raises:
            torch.OutOfMemoryError: If nothing fits.
        """
        # Not inference_mode: transformers caches position tables, and training in this process may meet them again.
        with torch.no_grad(), without_autocast(self.device):
            return self._or_on_cpu(lambda: ladder.run(items, compute))

    def sweep(self, follow: Callable[[Sam3Network], Iterator[Answer]], settings: InferenceSettings) -> Iterator[Answer]:
        """Results of one pass through a volume; it restarts after a move to the CPU.

        An encoder pass may cause the move too: the tracker must not stay on the full accelerator beside a second
        network on the CPU.

        Raises:
            torch.OutOfMemoryError: If it does not fit and may not move.
        """
        while True:
            device = self.device
            try:
                for answer in follow(self.network_for(settings)):
                    if self.device != device:
                        break
                    yield answer
                else:
                    return
            except torch.OutOfMemoryError:
                if self.device == device and not self._may_move():
                    raise
            if self.device == device:
                self._move_to_cpu()

    def _or_on_cpu(self, compute: Callable[[], Answer]) -> Answer:
        try:
            return compute()
        except torch.OutOfMemoryError:
            if not self._may_move():
                raise
        self._move_to_cpu()
        return compute()

    def _build(self, precision: Precision, resolution: int) -> Sam3Network:
        weights = self._tensors
        if weights is None:
            assert self.weights.reread is not None
            weights = self.weights.reread()
        network = build_network(weights, precision, self.device, resolution)
        if weights.reread is not None:
            self._tensors = None  # keeps one copy in memory
        return network

    def _may_move(self) -> bool:
        return self._allow_cpu and torch.device(self.device).type != _CPU

    def _move_to_cpu(self) -> None:
        self._unload()
        self.device = _CPU
        for ladder in (self.images, self.prompts):
            ladder.steps.append(f"{self._wanted_device}>{_CPU}")

    def _unload(self) -> None:
        self._network = self._text_encoder = self._heads = None
        _free_cuda_memory()


def _free_cuda_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
