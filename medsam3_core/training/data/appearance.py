"""Changes of the appearance of a slice: tone, colour, blur, noise, resolution."""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from medsam3_core.training.data.augmentation_plan import Augmentation

Image = NDArray[np.uint8]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def changed_look(image: Image, plan: Augmentation, rng: np.random.Generator) -> Image:
    """Change the appearance of a slice, uint8 (y, x, 3); a grey slice stays grey.

    Order: resolution and blur of the optics, then tone and colour, then noise of the detector.
    """
    grey = is_grey(image)
    pixels = torch.from_numpy(image[..., :1] if grey else image).permute(2, 0, 1).contiguous()
    if rng.random() < plan.p_low_resolution:
        pixels = _low_resolution(pixels, rng.uniform(0.35, 0.8))
    if rng.random() < plan.p_blur:
        pixels = _blurred(pixels, rng.uniform(0.4, 1.5))
    tables = _tone_tables(plan, rng, channels=1 if grey else 3)
    pixels = torch.from_numpy(
        np.stack([np.take(table, channel) for table, channel in zip(tables, pixels, strict=True)])
    )
    if not grey and rng.random() < plan.p_colour:
        pixels = _recoloured(pixels, rng)
    if rng.random() < plan.p_noise:
        pixels = pixels + torch.from_numpy(_noise(tuple(pixels.shape), rng))
    changed = pixels.add_(0.5).clamp_(0, 255).to(torch.uint8).permute(1, 2, 0)
    looked: Image = np.ascontiguousarray(changed.expand(-1, -1, 3).numpy())
    return looked


def is_grey(image: Image) -> bool:
    """True if all three channels are equal."""
    return bool((image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all())


def _tone_tables(plan: Augmentation, rng: np.random.Generator, channels: int) -> list[NDArray[np.float32]]:
    """Per channel the new values of the 256 grey values, float32."""
    ramp = np.linspace(0, 1, 256, dtype=np.float32)
    if rng.random() < (plan.p_invert or 0.0):
        ramp = 1 - ramp
    if rng.random() < plan.p_tone:
        gamma, contrast = np.exp(rng.uniform(-plan.tone, plan.tone, 2))
        brightness = rng.uniform(-plan.tone, plan.tone) / 2
        middle = ramp.mean()
        ramp = (np.clip(ramp, 0, 1) ** gamma - middle) * contrast + middle + brightness * 0.5
    tables = [ramp] * channels
    if channels == 3 and rng.random() < plan.p_colour:
        tables = [ramp * rng.uniform(0.8, 1.2) + rng.uniform(-0.06, 0.06) for _ in range(3)]
    return [(255 * np.clip(table, 0, 1)).astype(np.float32) for table in tables]


def _recoloured(pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Change hue and saturation: rotate colours about the grey axis and scale their distance to it."""
    angle, saturation = rng.uniform(-0.35, 0.35), rng.uniform(0.4, 1.5)
    if rng.random() < 0.1:
        saturation = 0.0
    c, s = np.cos(angle), np.sin(angle) / np.sqrt(3)
    spread = (1 - c) / 3
    turn = np.full((3, 3), spread) + c * np.eye(3) + s * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    matrix = saturation * turn + (1 - saturation) * np.tile(_LUMA, (3, 1))
    mix = torch.from_numpy(matrix.astype(np.float32))
    return (mix @ pixels.reshape(3, -1)).reshape(pixels.shape)


def _blurred(pixels: torch.Tensor, sigma: float) -> torch.Tensor:
    reach = max(1, round(2.5 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    planes = functional.pad(pixels[:, None].float(), (reach, reach, reach, reach), mode="replicate")
    planes = functional.conv2d(planes, weights[None, None, :, None])
    return functional.conv2d(planes, weights[None, None, None, :])[:, 0].add_(0.5).to(torch.uint8)


def _low_resolution(pixels: torch.Tensor, share: float) -> torch.Tensor:
    height, width = pixels.shape[-2:]
    small = [max(4, round(height * share)), max(4, round(width * share))]
    fewer = transforms.resize(pixels, small, interpolation=InterpolationMode.BILINEAR, antialias=True)
    restored: torch.Tensor = transforms.resize(
        fewer, [height, width], interpolation=InterpolationMode.BILINEAR, antialias=False
    )
    return restored


def _noise(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Normal noise of random strength, in part smooth like speckle."""
    bank, count = _noise_bank(), math.prod(shape)
    if count < len(bank):
        start = int(rng.integers(len(bank) - count))
        drawn = bank[start : start + count].reshape(shape)
    else:
        drawn = rng.standard_normal(shape, dtype=np.float32)
    noise = drawn * np.float32(rng.choice([-1, 1]) * rng.uniform(2, 16))
    if rng.random() < 0.3:
        noise[:, 1:, 1:] = 0.6 * (noise[:, 1:, 1:] + noise[:, :-1, :-1])
    return noise


@lru_cache(maxsize=1)
def _noise_bank() -> NDArray[np.float32]:
    """Standard normal numbers, drawn once: repeated drawing takes a third of the augmentation at 224 pixels."""
    return np.random.default_rng(0).standard_normal(2**20, dtype=np.float32)
