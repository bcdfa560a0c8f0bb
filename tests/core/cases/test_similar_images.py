"""Which images count as alike: the same picture after what copies go through, and never two pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from medsam3_core.cases.perceptual_hash import HASH_BYTES, PICTURES, VOLUMES, Likeness, perceptual_hash, similar_groups
from storage.sources.registry import find_reader
from tests import real_sources
from tests.storage.sources.datasets.drawn import textured


def differing(first: bytes, second: bytes) -> int:
    return int(np.bitwise_count(np.frombuffer(first, np.uint8) ^ np.frombuffer(second, np.uint8)).sum())


def hashed(image: Image.Image) -> bytes:
    found = perceptual_hash(np.asarray(image)[None])
    assert found is not None
    return found


def as_jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=50)
    return Image.open(buffer)


@pytest.mark.parametrize(
    "change",
    [
        as_jpeg,
        lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC),
        lambda image: image.point(lambda value: int(0.7 * value + 30)),
    ],
    ids=["jpeg", "half the size", "brightness and contrast"],
)
def test_a_changed_copy_differs_in_few_bits(change) -> None:
    image = Image.fromarray(textured(1, (200, 260), 1))
    rows = np.stack([np.frombuffer(hashed(item), np.uint8) for item in (image, change(image))])
    assert similar_groups(rows) == [[0, 1]]


def test_different_pictures_differ_in_about_half_of_the_bits() -> None:
    hashes = [hashed(Image.fromarray(textured(seed, channels=1))) for seed in range(20)]
    distances = [differing(a, b) for index, a in enumerate(hashes) for b in hashes[:index]]
    assert min(distances) > PICTURES.max_bits_of_low


@pytest.mark.parametrize("source", real_sources("CHASE_DB1") + real_sources("Task04_Hippocampus"))
def test_no_two_real_images_look_alike(source) -> None:
    layout, recipe = find_reader(str(source))
    cases = layout.list_cases(source, recipe)[:40]
    hashes = [perceptual_hash(layout.read_case(source, case, recipe).voxels) for case in cases]
    rows = np.stack([np.frombuffer(item, np.uint8) for item in hashes if item])
    assert len(rows) == len(cases)
    assert similar_groups(rows, PICTURES) == []


def test_flat_images_have_no_hash() -> None:
    assert perceptual_hash(np.full((1, 40, 50), 7, np.uint8)) is None


def test_colour_is_reduced_to_grey() -> None:
    grey = textured(3, channels=1)
    assert perceptual_hash(grey[None]) == perceptual_hash(np.stack([grey] * 3)[:, None])


def test_a_rescaled_volume_is_alike_and_one_with_other_slices_is_not() -> None:
    volume = np.stack([textured(seed, channels=1) for seed in range(8)]).astype(np.int16)
    other = volume.copy()
    other[5:] = volume[:3]
    rows = np.stack([np.frombuffer(perceptual_hash(item), np.uint8) for item in (volume, other, 2 * volume - 1000)])
    assert similar_groups(rows, VOLUMES) == [[0, 2]]


def test_groups_are_linked_by_close_pairs_in_any_order() -> None:
    random = np.random.default_rng(0)
    base, other = random.integers(0, 256, (2, HASH_BYTES), dtype=np.uint8)
    near, further = base.copy(), base.copy()
    near[:20] ^= 1  # 20 bits
    further[:20] ^= 1
    further[20:32] ^= 1  # 12 bits from `near`, 32 from `base`
    rows = np.stack([other, further, base, near, base])
    assert similar_groups(rows) == [[1, 2, 3, 4]]
    assert similar_groups(rows, Likeness(0)) == [[2, 4]]
    assert similar_groups(rows[:1]) == []


def test_close_pairs_are_found_among_thousands() -> None:
    rows = np.random.default_rng(1).integers(0, 256, (5000, HASH_BYTES), dtype=np.uint8)
    rows[4321] = rows[17]
    rows[4321, :24] ^= 128
    assert similar_groups(rows) == [[17, 4321]]
