"""`Sam3Segmenter`: SAM3 weights behind the `Segmenter` protocol."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medsam3_core.capabilities import Capabilities
from medsam3_core.errors import UnsupportedPromptError, UsageError
from medsam3_core.inference.protocol import SliceInstances
from medsam3_core.prompts.checks import is_interactive, require_answerable, require_inside
from medsam3_core.prompts.prompts import SlicePrompt, VolumePrompt
from medsam3_core.sam3.loaded_network import LoadedNetwork
from medsam3_core.sam3.network.encoder import PreparedSlice, SliceEncoding, encode_prepared, prepare_slice
from medsam3_core.sam3.network.network import Sam3Weights
from medsam3_core.sam3.network.propagation import TrackedSlice, propagate
from medsam3_core.sam3.tensors.postprocess import Detections, boxes_in_pixels, logits_at, mask_limit, masks_at
from medsam3_core.sam3.tensors.preprocess import require_slice
from medsam3_core.sam3.tiling import Tile, TileAnswer, TiledEncoding, join_tiles, prompts_per_tile, tiles_of
from medsam3_core.settings.inference import InferenceSettings

Encoding = SliceEncoding | TiledEncoding


@dataclass(frozen=True, eq=False)
class PreparedTiles:
    """A slice ready for the trunk, whole (`tiles` is None) or in tiles."""

    shape_yx: tuple[int, int]
    tiles: tuple[Tile, ...] | None
    parts: tuple[PreparedSlice, ...]


class Sam3Segmenter:
    """Answers prompts on encoded slices; the network is built on first use.

    A change of precision or resolution between calls rebuilds the network. Not thread-safe.

    Args:
        weights: Tensors matched with their architecture; kept only if they cannot be read again.
        device: `cpu` or `cuda:N`.
        allow_cpu: Move work that does not fit into accelerator memory to the CPU, permanently.
        images_per_pass: Slices per encoder pass; by default 1 on a CPU, 8 on CUDA.
        prompts_per_pass: Prompts per head pass; the same defaults.
    """

    def __init__(
        self,
        weights: Sam3Weights,
        device: str = "cpu",
        *,
        allow_cpu: bool = True,
        images_per_pass: int | None = None,
        prompts_per_pass: int | None = None,
    ) -> None:
        self._loaded = LoadedNetwork(weights, device, allow_cpu, images_per_pass, prompts_per_pass)

    @property
    def weights(self) -> Sam3Weights:
        """Its weights with their match report, without tensors."""
        return self._loaded.weights

    @property
    def capabilities(self) -> Capabilities:
        """Text and boxes always; points and masks with a tracker; propagation if its memory is trained."""
        weights = self.weights
        return Capabilities(text=True, box=True, interactive=weights.interactive, propagation=weights.propagates)

    @property
    def device(self) -> str:
        """Current device."""
        return self._loaded.device

    def precision(self, settings: InferenceSettings) -> str:
        """Precision of these settings on the requested device: `fp32`, `bf16` or `mixed`."""
        return self._loaded.precision(settings.dtype).name

    def prepare(self, images: Sequence[NDArray[np.uint8]], settings: InferenceSettings) -> list[PreparedTiles]:
        """Cut slices into tiles if the settings ask for it and resize to the model's square; safe in any thread.

        Raises:
            CaseDataError: If a slice has another type or shape, or is too large.
            UsageError: If the weights do not take the resolution of the settings.
        """
        resolution = self.weights.architecture.at(settings.resolution).resolution
        return [_prepared(image, settings.tiles, resolution) for image in images]

    def encode(
        self, images: Sequence[NDArray[np.uint8] | PreparedTiles], settings: InferenceSettings
    ) -> list[Encoding]:
        """Run the trunk over slices, uint8 of shape (y, x, 3) each, or over their tiles.

        Raises:
            CaseDataError: If a slice has another type or shape, or is too large.
            UsageError: If the weights do not take the resolution of the settings.
        """
        loaded = self._loaded
        ready = [image if isinstance(image, PreparedTiles) else self.prepare([image], settings)[0] for image in images]

        def compute(batch: list[PreparedSlice]) -> list[SliceEncoding]:
            return encode_prepared(loaded.network_for(settings), batch)

        parts = loaded.run(loaded.images, [part for one in ready for part in one.parts], compute)
        noted = iter([replace(part, fallbacks=tuple(loaded.images.steps)) for part in parts])
        return [_joined(one, [next(noted) for _ in one.parts]) for one in ready]

    def segment(
        self, encoding: Encoding, prompts: Sequence[SlicePrompt], settings: InferenceSettings
    ) -> list[SliceInstances]:
        """Answer each prompt on one slice.

        Text and exemplar boxes give all instances above the threshold, by falling score. Points, masks and boxes with
        `mode=interactive` give one instance each, whatever its score; the score is the head's estimate of the IoU.

        Raises:
            UnsupportedPromptError: If a prompt needs a head that these weights do not have.
            UsageError: If a box or point leaves the slice, or a text is empty or holds a special token.
        """
        for prompt in prompts:
            require_answerable(prompt, settings.mode, interactive=self.weights.interactive, source=self.weights.source)
            require_inside(prompt, encoding.shape_yx)
        if isinstance(encoding, TiledEncoding):
            return self._segment_tiles(encoding, prompts, settings)
        whole = Tile(0, 0, *encoding.shape_yx)
        return [answer.instances for answer in self._answer(encoding, prompts, settings, whole)]

    def follow(
        self,
        encoding_of: Callable[[int], Encoding],
        count: int,
        prompts: Sequence[VolumePrompt],
        settings: InferenceSettings,
    ) -> Iterator[TrackedSlice]:
        """Follow objects from their prompts through a volume, upwards first, then downwards.

        Args:
            encoding_of: Encodes slice z; called at most twice per slice.
            count: Slices of the volume.
            prompts: One object each.
            settings: Precision and resolution.

        Raises:
            UnsupportedPromptError: If the weights have no tracker.
            UsageError: If a prompt lies outside the volume or its slice, is not one object, or slices are encoded in
                tiles.
        """
        if not self.capabilities.propagation:
            source = self.weights.source
            msg = f"{source} has no trained tracker to propagate with; use the released sam3.pt or slices=all"
            raise UnsupportedPromptError(msg)

        def checked(z: int) -> SliceEncoding:
            encoding = encoding_of(z)
            if isinstance(encoding, TiledEncoding):
                msg = "objects are followed through whole slices; use tiles=1 with slices=key"
                raise UsageError(msg)
            for one in prompts:
                if one.z == z:
                    require_inside(one.prompt, encoding.shape_yx)
            return encoding

        loaded, given = self._loaded, set[tuple[int, int]]()
        for drawn in loaded.sweep(lambda network: propagate(network, checked, count, prompts), settings):
            if (drawn.index, drawn.z) not in given:  # after a move to the CPU the sweeps begin again
                given.add((drawn.index, drawn.z))
                # The tracker may have taken a fallback after the slice was encoded.
                yield replace(drawn, fallbacks=tuple(dict.fromkeys((*drawn.fallbacks, *loaded.images.steps))))

    def encoding_identity(self, settings: InferenceSettings) -> tuple[str, ...]:
        """Everything beside slice and weights that determines an encoding."""
        resolution = self.weights.architecture.at(settings.resolution).resolution
        kind = self._loaded.kind_of_device
        return (self.precision(settings), kind, f"resolution={resolution}", f"tiles={settings.tiles}")

    def pack(self, encoding: Encoding) -> NDArray[np.generic]:
        """Turn an encoding into one array, tiles first, without loss; its fallback notes are dropped."""
        parts = encoding.encodings if isinstance(encoding, TiledEncoding) else (encoding,)
        return np.stack([part.to_array() for part in parts])

    def unpack(self, array: NDArray[np.generic], shape_yx: tuple[int, int], settings: InferenceSettings) -> Encoding:
        """Restore an encoding from `pack`.

        Raises:
            ValueError: If the array has another number of tiles than the settings ask for.
        """
        if settings.tiles == 1:
            (whole,) = array
            return SliceEncoding.from_array(whole, shape_yx)
        tiles = tiles_of(shape_yx, settings.tiles)
        parts = (SliceEncoding.from_array(part, tile.shape_yx) for part, tile in zip(array, tiles, strict=True))
        return TiledEncoding(shape_yx, tiles, tuple(parts))

    def _segment_tiles(
        self, encoding: TiledEncoding, prompts: Sequence[SlicePrompt], settings: InferenceSettings
    ) -> list[SliceInstances]:
        shown = [prompts_per_tile(prompt, encoding.tiles) for prompt in prompts]
        answers: list[list[TileAnswer]] = [[] for _ in prompts]
        for number, (tile, part) in enumerate(zip(encoding.tiles, encoding.encodings, strict=True)):
            asked = [(index, prompt) for index, one in enumerate(shown) if (prompt := one[number]) is not None]
            found = self._answer(part, [prompt for _, prompt in asked], settings, tile)
            for (index, _), answer in zip(asked, found, strict=True):
                answers[index].append(answer)
        return [join_tiles(one, encoding.shape_yx) for one in answers]

    def _answer(
        self, encoding: SliceEncoding, prompts: Sequence[SlicePrompt], settings: InferenceSettings, tile: Tile
    ) -> list[TileAnswer]:
        """Answer prompts on one encoding in passes that fit into memory."""
        loaded = self._loaded

        def ask(batch: list[SlicePrompt]) -> list[TileAnswer]:
            heads = loaded.heads_on(encoding, settings)
            found = [found.above(settings.threshold) for found in heads.detect(batch)]
            notes = [heads.text_notes(prompt) for prompt in batch]
            return [_drawn(one, tile, settings, note) for one, note in zip(found, notes, strict=True)]

        def click(batch: list[SlicePrompt]) -> list[TileAnswer]:
            heads = loaded.heads_on(encoding, settings)
            return [_drawn(heads.click(prompt).above(-1.0), tile, settings, ()) for prompt in batch]

        clicked = [is_interactive(prompt, settings.mode) for prompt in prompts]
        asked = iter(loaded.run(loaded.prompts, [p for p, by in zip(prompts, clicked, strict=True) if not by], ask))
        drawn = iter(loaded.run(loaded.prompts, [p for p, by in zip(prompts, clicked, strict=True) if by], click))
        notes = tuple(dict.fromkeys((*encoding.fallbacks, *loaded.prompts.steps)))
        return [_with_notes(next(drawn) if by else next(asked), notes) for by in clicked]


def _prepared(image: NDArray[np.uint8], tiles: int, resolution: int) -> PreparedTiles:
    require_slice(image)
    shape_yx = (image.shape[0], image.shape[1])
    if tiles == 1:
        return PreparedTiles(shape_yx, None, (prepare_slice(image, resolution),))
    cut = tiles_of(shape_yx, tiles)
    return PreparedTiles(shape_yx, cut, tuple(prepare_slice(image[tile.window], resolution) for tile in cut))


def _joined(slice_: PreparedTiles, parts: list[SliceEncoding]) -> Encoding:
    if slice_.tiles is None:
        (whole,) = parts
        return whole
    return TiledEncoding(slice_.shape_yx, slice_.tiles, tuple(parts))


def _drawn(found: Detections, tile: Tile, settings: InferenceSettings, notes: tuple[str, ...]) -> TileAnswer:
    """Masks, scores and boxes at the size of the slice or tile."""
    limit = mask_limit(tile.shape_yx)
    kept = found.first(limit)
    if len(found.scores) > limit:
        notes = (*notes, f"instances-capped:{len(found.scores)}>{limit}")
    semantic = None
    if settings.merge.uses_semantic_mask and found.semantic_logits is not None:
        semantic = logits_at(found.semantic_logits[None], tile.shape_yx)[0].cpu().numpy()
        if found.presence <= settings.threshold:
            semantic = np.minimum(semantic, 0.0)
    instances = SliceInstances(
        masks_at(kept.mask_logits, tile.shape_yx),
        kept.scores.float().cpu().numpy(),
        boxes_in_pixels(kept.boxes_xyxy, tile.shape_yx),
        None if semantic is None else semantic > 0,
        notes,
        found.presence,
    )
    return TileAnswer(tile, instances, semantic)


def _with_notes(answer: TileAnswer, notes: tuple[str, ...]) -> TileAnswer:
    instances = replace(answer.instances, fallbacks=(*notes, *answer.instances.fallbacks))
    return replace(answer, instances=instances)
