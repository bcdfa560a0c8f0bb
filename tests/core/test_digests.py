import subprocess
import sys

import numpy as np
import pytest

from medsam3_core.digests import canonical_json, digest_array, digest_json, seed_from, short_digest


def test_the_order_of_keys_does_not_matter_and_that_of_lists_does() -> None:
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    assert digest_json([1, 2]) != digest_json([2, 1])


def test_a_digest_is_the_same_for_ever() -> None:
    assert canonical_json({"b": [1, 2.5, None, True], "a": "ä"}) == '{"a":"\\u00e4","b":[1,2.5,null,true]}'
    assert short_digest({"a": 1}) == "015abd7f5cc5"


def test_a_digest_is_the_same_in_another_process() -> None:
    code = "from medsam3_core.digests import seed_from; print(seed_from('case', 1))"
    answers = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True).stdout
        for seed in ("1", "2")
    }
    assert answers == {f"{seed_from('case', 1)}\n".encode()}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_json({"x": value})


def test_equal_arrays_have_equal_digests_whatever_their_memory_layout() -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    assert digest_array(array) == digest_array(np.asfortranarray(array))
    assert digest_array(array[:, ::2]) == digest_array(array[:, ::2].copy())


def test_shape_type_and_values_count() -> None:
    array = np.arange(6, dtype=np.int16)
    others = [array.reshape(2, 3), array.astype(np.int32), array + 1]
    assert len({digest_array(one) for one in (array, *others)}) == 4


def test_an_empty_array_has_a_digest() -> None:
    assert digest_array(np.zeros((0, 3))) != digest_array(np.zeros((3, 0)))


def test_seeds_depend_on_their_parts_alone_and_fit_64_bits() -> None:
    assert seed_from("a", 1) == seed_from("a", 1)
    assert len({seed_from("a", 1), seed_from("a1"), seed_from("a", "2"), seed_from()}) == 4
    assert 0 <= seed_from("x") < 2**64
