import numpy as np
import pytest

from medsam3_core.cases.intensity import IntensityPolicy, as_rgb, to_uint8
from medsam3_core.errors import UsageError


def test_a_ct_window_spans_from_black_to_white() -> None:
    value_range = IntensityPolicy.parse("ct:50,400").value_range(np.zeros(1))
    assert value_range == (-150.0, 250.0)
    hounsfield = np.array([-1000, -150, 50, 250, 3000], np.int16)
    assert to_uint8(hounsfield, value_range).tolist() == [0, 0, 128, 255, 255]


def test_percentiles_ignore_the_extremes() -> None:
    voxels = np.concatenate([np.arange(101), [100_000]]).astype(np.float32)
    low, high = IntensityPolicy.parse("percentile:0,99").value_range(voxels)
    assert (low, high) == (0.0, pytest.approx(99.99, abs=0.01))


def test_minmax_takes_the_whole_range_and_identity_none() -> None:
    voxels = np.array([-5, 7], np.int16)
    assert IntensityPolicy.parse("minmax").value_range(voxels) == (-5.0, 7.0)
    assert IntensityPolicy.parse("identity").value_range(voxels) == (0.0, 255.0)


def test_identity_gives_the_very_same_bytes() -> None:
    voxels = np.arange(256, dtype=np.uint8)
    assert to_uint8(voxels, (0.0, 255.0)) is voxels


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_a_constant_volume_becomes_black(dtype: type) -> None:
    voxels = np.full((2, 3), 7, dtype)
    assert not to_uint8(voxels, IntensityPolicy.parse("minmax").value_range(voxels)).any()


def test_integers_do_not_overflow_on_the_way() -> None:
    assert to_uint8(np.array([-32768, 32767], np.int16), (-32768.0, 32767.0)).tolist() == [0, 255]
    assert to_uint8(np.array([0, 65535], np.uint16), (0.0, 65535.0)).tolist() == [0, 255]


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5)])
def test_one_channel_becomes_three_equal_ones(shape: tuple[int, ...]) -> None:
    plane = np.arange(20, dtype=np.uint8).reshape(shape)
    rgb = as_rgb(plane)
    assert rgb.shape == (4, 5, 3)
    assert (rgb == plane.reshape(4, 5, 1)).all()


def test_three_channels_go_last() -> None:
    planes = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    assert as_rgb(planes)[1, 2].tolist() == planes[:, 1, 2].tolist()


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(UsageError, match="2 channels cannot be shown as RGB"):
        as_rgb(np.zeros((2, 4, 5), np.uint8))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lung", "unknown intensity policy 'lung'; choose ct:CENTRE,WIDTH"),
        ("ct:50", "ct takes 2 numbers"),
        ("ct:50,x", "ct takes 2 numbers"),
        ("ct:50,inf", "ct takes 2 numbers"),
        ("ct:50,0", "width must be above 0"),
        ("minmax:1", "minmax takes 0 numbers"),
        ("percentile:90,10", "0 <= LOW < HIGH <= 100"),
        ("percentile:-1,99", "0 <= LOW < HIGH <= 100"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_what_exists(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        IntensityPolicy.parse(text)
