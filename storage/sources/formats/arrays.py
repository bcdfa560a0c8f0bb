"""Read arrays by name from `.npz`, `.npy`, `.h5` and `.mat` files, without running code in them."""

import ast
import io
import math
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray
from scipy.io.matlab import MatReadError

from medsam3_core.errors import UnreadableFileError
from storage.sources.listing.files import open_source
from storage.sources.listing.limits import require_fitting

_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    RuntimeError,  # a password is needed, or the compression is unknown
    MemoryError,
    MatReadError,
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
    UnicodeDecodeError,
)
_MAX_MATLAB_BYTES = 8
"""Bytes per number."""
_PLAIN_PICKLE = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}
"""Globals that a pickled dictionary of numbers and texts needs; none of them runs code of the file."""


def read_array(path: Path, key: str) -> NDArray[Any]:
    """One numeric array of a file.

    Raises:
        UnreadableFileError: If the file is missing, truncated, of another kind, or has no such array; lists its arrays.
    """
    array = find_array(path, key)
    if array is None:
        msg = f"{path} has no array {key!r}; its arrays are: {', '.join(array_names(path)) or 'none'}"
        raise UnreadableFileError(msg)
    if array.dtype.kind not in "biuf":
        msg = f"{path}: array {key!r} has the type {array.dtype}; numbers are expected"
        raise UnreadableFileError(msg)
    return array


def find_array(path: Path, key: str) -> NDArray[Any] | None:
    """The array of this name, or None if the file has none.

    Raises:
        UnreadableFileError: If the file cannot be read.
    """
    with _readable(path):
        return _read(path, key)


def array_names(path: Path) -> list[str]:
    """Names of the arrays in a file, sorted.

    Raises:
        UnreadableFileError: If the file cannot be read.
    """
    with _readable(path), open_source(path) as file:
        match _kind(path):
            case "npz":
                with zipfile.ZipFile(file) as archive:
                    return sorted(name.removesuffix(".npy") for name in archive.namelist())
            case "h5":
                with h5py.File(file, "r") as groups:
                    return sorted(groups)
            case "mat":
                content: Any = io.BytesIO(file.read())
                return sorted(name for name, *_ in scipy.io.whosmat(content))
            case _:
                return []


def read_texts(path: Path, key: str) -> dict[str, Any] | None:
    """A dictionary of texts and numbers in an `.npz`, pickled or as JSON; None if the file has none.

    Only plain containers, texts and numbers are unpickled; a pickle that names anything else is refused.

    Raises:
        UnreadableFileError: If the file cannot be read, or the object is not such a dictionary.
    """
    with _readable(path), open_source(path) as file, zipfile.ZipFile(file) as archive:
        if f"{key}.npy" not in archive.namelist():
            return None
        with archive.open(f"{key}.npy") as member:
            value = _read_object(member)
    if not isinstance(value, dict):
        msg = f"{path}: {key!r} holds {type(value).__name__}; a dictionary of label value to text is expected"
        raise UnreadableFileError(msg)
    return {str(name): item for name, item in value.items()}


def _read(path: Path, key: str) -> NDArray[Any] | None:
    with open_source(path) as file:
        match _kind(path):
            case "npz":
                with zipfile.ZipFile(file) as archive:
                    if f"{key}.npy" not in archive.namelist():
                        return None
                    with archive.open(f"{key}.npy") as member:
                        return _read_numpy(path, member)
            case "npy":
                return _read_numpy(path, file)
            case "h5":
                with h5py.File(file, "r") as content:
                    return _read_dataset(path, content, key)
            case _:
                return _read_matlab(path, file, key)


def _read_numpy(path: Path, file: IO[bytes]) -> NDArray[Any]:
    """An array in numpy's own format, if the size in its header is within the limit."""
    shape, dtype = _numpy_header(file)
    require_fitting(str(path), math.prod(shape) * dtype.itemsize)
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _numpy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    return shape, dtype


def _read_dataset(path: Path, content: h5py.File, key: str) -> NDArray[Any] | None:
    if key not in content:
        return None
    require_fitting(str(path), int(getattr(content[key], "nbytes", 0)))
    return np.asarray(content[key])


def _read_matlab(path: Path, file: IO[bytes], key: str) -> NDArray[Any] | None:
    """Read MATLAB 5 by scipy; MATLAB 7.3 files are HDF5 with reversed axes."""
    if file.read(8) == b"MATLAB 7":
        file.seek(0)
        with h5py.File(file, "r") as groups:
            found = _read_dataset(path, groups, key)
            return None if found is None else found.T
    file.seek(0)
    content: Any = io.BytesIO(file.read())
    declared = [math.prod(shape) * _MAX_MATLAB_BYTES for name, shape, _ in scipy.io.whosmat(content) if name == key]
    require_fitting(str(path), max(declared, default=0))
    content.seek(0)
    arrays = scipy.io.loadmat(content, variable_names=[key])
    return np.asarray(arrays[key]) if key in arrays else None


def _kind(path: Path) -> str:
    name = path.name.lower()
    if name.endswith((".h5", ".hdf5")):
        return "h5"
    return name.rpartition(".")[2]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UnreadableFileError:
        raise
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = f"{path} cannot be read ({reason}); it may be truncated, copy or export it again"
        raise UnreadableFileError(msg) from error


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every global except the few that rebuild an array of plain objects."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")  # written by numpy 1
        if (module, name) not in _PLAIN_PICKLE:
            msg = f"pickled object needs {module}.{name}; only texts and numbers are read"
            raise pickle.UnpicklingError(msg)
        return super().find_class(module, name)


def _read_object(member: IO[bytes]) -> Any:
    _, dtype = _numpy_header(member)
    if dtype.hasobject:
        value = _PlainUnpickler(member).load()
        return value.item() if isinstance(value, np.ndarray) else value
    if dtype.kind in "US":
        text = member.read().decode("utf-32-le" if dtype.kind == "U" else "utf-8").rstrip("\0")
        return ast.literal_eval(text)
    return None
