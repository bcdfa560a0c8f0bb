"""Read headers of many DICOM files: in this process for a few, in one process per core for an archive."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from storage.sources.dicom.headers import DicomHeader
from storage.sources.dicom.reading import read_header, read_headers
from storage.store.locations import is_remote
from storage.store.pseudonyms import Pseudonyms

_MAX_FILES_IN_PROCESS = 4000
"""Files that one process reads in about the time that others need to start."""
_CHUNK = 500
_MAX_REQUESTS = 32


def scan_headers(
    root: Path, files: Sequence[str], pseudonyms: Pseudonyms, *, processes: int = 0
) -> Iterator[tuple[str, DicomHeader | None]]:
    """Each file with its header, None for files that are not DICOM, in the order of `files`.

    Args:
        root: The source.
        files: Paths relative to it.
        pseudonyms: For patients, and paths that name them.
        processes: Number of processes; 0 chooses by files and cores.
    """
    if is_remote(root):  # bound by latency
        with ThreadPoolExecutor(_MAX_REQUESTS) as pool:
            yield from zip(files, pool.map(lambda file: read_header(root, file, pseudonyms), files), strict=True)
        return
    count = processes or (min(os.cpu_count() or 1, 16) if len(files) > _MAX_FILES_IN_PROCESS else 1)
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    if count < 2 or multiprocessing.current_process().daemon:
        for chunk in chunks:
            yield from zip(chunk, read_headers(root, chunk, pseudonyms), strict=True)
        return
    # Not forked: this process may run threads of Prefect and Dask, whose locks would be copied in their current state.
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        answers = pool.map(read_headers, [root] * len(chunks), chunks, [pseudonyms] * len(chunks))
        for chunk, headers in zip(chunks, answers, strict=True):
            yield from zip(chunk, headers, strict=True)
