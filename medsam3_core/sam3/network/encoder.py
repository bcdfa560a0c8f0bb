"""The vision encoder, split to share work: trunk once per slice, then one neck per head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from medsam3_core.errors import UsageError
from medsam3_core.sam3.fast.shared_mask_decoder import SharedPixelDecoder
from medsam3_core.sam3.network.network import TRACKER_DTYPE, Sam3Network
from medsam3_core.sam3.network.propagation_tracker import PropagationTracker
from medsam3_core.sam3.tensors.preprocess import pixel_values
from medsam3_core.sam3.tensors.transformers_internals import (
    Sam3SinePositionEmbedding,
    Sam3VisionEncoderOutput,
    Sam3VisionNeck,
)

_LEVELS = 3
"""Feature maps read by the heads (4, 2 and 1 times the token grid); the fourth level is unused."""


@dataclass(frozen=True, eq=False)
class SliceEncoding:
    """One slice after the trunk; the necks are cheap and run on demand.

    Attributes:
        trunk: Shape (c, grid, grid), on the device, in the encoder's precision.
        shape_yx: Size of the slice in pixels.
        fallbacks: Steps taken to fit the encoder pass into memory.
    """

    trunk: torch.Tensor
    shape_yx: tuple[int, int]
    fallbacks: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Memory of the trunk."""
        return self.trunk.nbytes

    def to_array(self) -> NDArray[np.generic]:
        """The trunk for a disk cache, lossless: float32, or the bits of bfloat16 as uint16."""
        bits = self.trunk.view(torch.uint16) if self.trunk.dtype is torch.bfloat16 else self.trunk
        array: NDArray[np.generic] = bits.cpu().numpy()
        return array

    @classmethod
    def from_array(cls, array: NDArray[np.generic], shape_yx: tuple[int, int]) -> "SliceEncoding":
        """Restore from `to_array`; the tensor stays on the CPU until a head reads it."""
        bits = torch.from_numpy(np.array(array))
        return cls(bits.view(torch.bfloat16) if bits.dtype is torch.uint16 else bits, shape_yx)


@dataclass(frozen=True, eq=False)
class PreparedSlice:
    """Input of the trunk from a slice or a tile: pixels float32 (3, side, side) in [-1, 1], and its original size."""

    pixels: torch.Tensor
    shape_yx: tuple[int, int]


def prepare_slice(image: NDArray[np.uint8], resolution: int) -> PreparedSlice:
    """Resize a slice, uint8 (y, x, 3) of any size, to the model's square."""
    return PreparedSlice(pixel_values([image], resolution)[0], (image.shape[0], image.shape[1]))


def encode_slices(network: Sam3Network, images: Sequence[NDArray[np.uint8]]) -> list[SliceEncoding]:
    """One trunk pass over a batch of slices, uint8 (y, x, 3) of any size."""
    return encode_prepared(network, [prepare_slice(image, network.architecture.resolution) for image in images])


def encode_prepared(network: Sam3Network, slices: Sequence[PreparedSlice]) -> list[SliceEncoding]:
    """One trunk pass over a batch of prepared slices."""
    trunk = network.detector.vision_encoder.backbone
    pixels = torch.stack([one.pixels for one in slices])
    pixels = pixels.to(device=network.device, dtype=network.precision.encoder)
    grid = network.architecture.grid
    tokens = trunk(pixels).last_hidden_state
    maps = tokens.transpose(1, 2).reshape(len(slices), -1, grid, grid)
    return [SliceEncoding(one.clone(), ready.shape_yx) for one, ready in zip(maps, slices, strict=True)]


def detector_features(network: Sam3Network, encoding: SliceEncoding) -> Sam3VisionEncoderOutput:
    """Feature maps of the concept head for one slice, in its precision, ready for `SharedPixelDecoder`."""
    neck = neck_maps(network, network.detector.vision_encoder.neck, encoding)
    decoder = cast(SharedPixelDecoder, network.detector.mask_decoder.pixel_decoder)
    maps = decoder.convolved_skips(neck)
    position = position_map(maps[-1])
    return Sam3VisionEncoderOutput(
        fpn_hidden_states=(*maps, None),
        # Only the coarsest level is read with positions; those of the others would take 85 MB.
        fpn_position_encoding=(None, None, position, None),
    )


@dataclass(frozen=True, eq=False)
class TrackerFeatures:
    """Feature maps of the tracker for one slice, finest first, each (1, c, h, w), and positions of the coarsest."""

    maps: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    position: torch.Tensor


def tracker_features(network: Sam3Network, encoding: SliceEncoding) -> TrackerFeatures:
    """Feature maps of the interactive head for one slice, the two finest projected for its decoder."""
    assert network.tracker is not None
    maps = tracker_maps(network.tracker, neck_maps(network, network.tracker_neck, encoding))
    return TrackerFeatures(maps, position_map(maps[-1]))


def tracker_maps(
    tracker: PropagationTracker, maps: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Project maps of the tracker's neck, finest first, for its decoder."""
    fine, middle, coarse = (one.to(TRACKER_DTYPE) for one in maps)
    return tracker.mask_decoder.conv_s0(fine), tracker.mask_decoder.conv_s1(middle), coarse


def neck_maps(network: Sam3Network, neck: Sam3VisionNeck, encoding: SliceEncoding) -> list[torch.Tensor]:
    """The three feature maps of a neck, finest first, each of shape (1, c, h, w).

    Raises:
        UsageError: If the encoding has another precision or resolution than the network.
    """
    grid, wanted = network.architecture.grid, network.precision.encoder
    if encoding.trunk.shape[-1] != grid or encoding.trunk.dtype is not wanted:
        msg = (
            f"encoding of {encoding.trunk.shape[-1]} x {encoding.trunk.shape[-1]} tokens in {encoding.trunk.dtype} "
            f"does not fit settings that need {grid} x {grid} in {wanted}; encode the slice again with these settings"
        )
        raise UsageError(msg)
    return maps_of(neck, encoding.trunk.to(network.device)[None])


def maps_of(neck: Sam3VisionNeck, trunk: torch.Tensor) -> list[torch.Tensor]:
    """The three feature maps of a neck over trunk maps (n, c, grid, grid), finest first."""
    return [layer(trunk) for layer in neck.fpn_layers[:_LEVELS]]


def position_map(feature_map: torch.Tensor) -> torch.Tensor:
    """Sine positions of the tokens, computed in fp32, since bf16 would round them."""
    features = feature_map.shape[1] // 2
    encode = Sam3SinePositionEmbedding(num_position_features=features, normalize=True)
    position: torch.Tensor = encode(feature_map.shape, feature_map.device, torch.float32)
    return position.to(feature_map.dtype)
