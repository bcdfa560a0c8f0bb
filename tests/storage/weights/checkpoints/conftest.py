"""The small weights on disk, as the SAM3 tests have them."""

from tests.core.sam3.conftest import _one_thread, official, tiny_bare, tiny_folder

__all__ = ["_one_thread", "official", "tiny_bare", "tiny_folder"]
