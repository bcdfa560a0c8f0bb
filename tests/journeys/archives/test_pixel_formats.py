"""Pixel formats: palettes, and slices of one series with different formats."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from medsam3_core.cases.series_geometry import SeriesRejectedError
from tests.journeys.archives.test_dicom_faults import listed, only_reason, volumes
from tests.journeys.archives.written_dicom import COLUMNS, ROWS, ct_slices, save, stored_voxels

PALETTE = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 7)], axis=1).astype(np.uint8)
"""Red rises, green falls, blue is constant."""


def with_palette(data: FileDataset, *, first: int = 0, entries: int = 256, bits: int = 8) -> None:
    data.PhotometricInterpretation = "PALETTE COLOR"
    for channel, colour in enumerate(("Red", "Green", "Blue")):
        values = PALETTE[:entries, channel]
        table = values.tobytes() if bits == 8 else (values.astype("<u2") * 257).tobytes()
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [entries, first, bits])
        setattr(data, f"{colour}PaletteColorLookupTableData", table)


def stored_as(data: FileDataset, pixels: np.ndarray, **changes: Any) -> None:
    bits = pixels.dtype.itemsize * 8
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.RescaleIntercept, data.PixelData = 0, pixels.tobytes()
    for keyword, value in changes.items():
        setattr(data, keyword, value)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_is_applied(tmp_path: Path, bits: int) -> None:
    indices = (stored_voxels(3) % 256).astype(np.uint8)
    slices = ct_slices(3, Modality="US")
    for data, plane in zip(slices, indices, strict=True):
        stored_as(data, plane)
        with_palette(data, bits=bits)
    save(tmp_path / "a", slices)
    (volume,) = volumes(tmp_path / "a")
    assert volume.voxels.dtype == np.uint8
    assert np.array_equal(volume.voxels, np.moveaxis(PALETTE[indices], 3, 0))
    assert volume.attributes["dicom_palette"] == "applied"


def test_values_beyond_a_palette_are_its_ends(tmp_path: Path) -> None:
    pixels = np.zeros((ROWS, COLUMNS), np.uint16)
    pixels[0, :4] = (99, 100, 109, 4000)
    slices = ct_slices(1)
    stored_as(slices[0], pixels)
    with_palette(slices[0], first=100, entries=10)
    save(tmp_path / "a", slices)
    (volume,) = volumes(tmp_path / "a")
    assert volume.voxels[0, 0, 0, :4].tolist() == [0, 0, 9, 9]
    assert volume.voxels[1, 0, 0, :4].tolist() == [255, 255, 246, 246]


def test_a_palette_that_is_not_there_is_a_reason_that_names_it(tmp_path: Path) -> None:
    slices = ct_slices(2, PhotometricInterpretation="PALETTE COLOR")
    save(tmp_path / "a", slices)
    layout, recipe, cases = listed(tmp_path / "a")
    with pytest.raises(SeriesRejectedError, match=r"IM0000 .*without RedPaletteColorLookupTableDescriptor.*convert it"):
        layout.read_case(tmp_path / "a", cases[0], recipe)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (np.uint16([65_000]), np.int16([-7]), np.int32),
        (np.int16([-7]), np.uint16([65_000]), np.int32),
        (np.uint8([200]), np.uint16([3000]), np.uint16),
        (np.uint16([3000]), np.int16([-7]), np.int16),
    ],
)
def test_slices_of_different_types_keep_their_values(
    tmp_path: Path, first: np.ndarray, second: np.ndarray, expected: type
) -> None:
    slices = ct_slices(2)
    for data, value in zip(slices, (first, second), strict=True):
        stored_as(data, np.broadcast_to(value, (ROWS, COLUMNS)))
    save(tmp_path / "a", slices)
    (volume,) = volumes(tmp_path / "a")
    assert volume.voxels[:, 0, 0].tolist() == [int(first[0]), int(second[0])]
    assert volume.voxels.dtype == expected


@pytest.mark.parametrize("inverted", [0, 1])
def test_only_the_slices_that_are_monochrome1_are_mirrored(tmp_path: Path, inverted: int) -> None:
    slices = ct_slices(2)
    slices[inverted].PhotometricInterpretation = "MONOCHROME1"
    save(tmp_path / "a", slices)
    expected = stored_voxels(2).astype(np.int16)
    expected[inverted] = 4095 - expected[inverted]
    assert np.array_equal(volumes(tmp_path / "a")[0].voxels, expected - 1024)


@pytest.mark.parametrize("coloured", [[0], [1, 2, 3]])
def test_grey_and_colour_in_one_series_are_named(tmp_path: Path, coloured: list[int]) -> None:
    slices = ct_slices(4)
    for z in coloured:
        pixels = np.zeros((ROWS, COLUMNS, 3), np.uint8)
        stored_as(slices[z], pixels, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    save(tmp_path / "a", slices)
    reason = only_reason(tmp_path / "a")
    grey = min(set(range(4)) - set(coloured))
    assert reason.startswith(f"mixed-colour: IM000{coloured[0]} is in colour (RGB) and IM000{grey} is not; split")
