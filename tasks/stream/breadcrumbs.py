"""Breadcrumbs: a running batch notes its current case in a file, so that a worker death is blamed on one case.

Without them a dead batch blames all its cases, and so do tasks queued on a dying worker. Driver and workers must share
the folder; in an object store a note is one small object.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from storage.store.atomic import remove, store_errors
from storage.store.locations import is_remote

BETWEEN_CASES = "*"
"""Breadcrumb of a batch between its cases (a case_id never starts with a star)."""


class HasCaseId(Protocol):
    """Unit of work for breadcrumbs and the stream."""

    @property
    def case_id(self) -> str:
        """Id of the case in breadcrumbs."""
        ...


Item = TypeVar("Item", bound=HasCaseId)


@dataclass(frozen=True, slots=True)
class BreadcrumbFolder:
    """Folder of the breadcrumbs of one driver."""

    folder: Path

    def read(self, batch_id: str) -> str | None:
        """The current case, `BETWEEN_CASES`, or None if the batch never began."""
        path = self.folder / batch_id
        return (path.read_text(encoding="utf-8") or None) if path.exists() else None

    def remove(self) -> None:
        """Remove the folder at the end of a stream, with the notes of batches that were cancelled."""
        remove(self.folder)

    def drop(self, batch_id: str) -> None:
        """Remove the note of a finished batch."""
        (self.folder / batch_id).unlink(missing_ok=True)


class Breadcrumb:
    """The note of one running batch; `at(case)` overwrites it in place."""

    def __init__(self, folder: BreadcrumbFolder, batch_id: str) -> None:
        self._path = folder.folder / batch_id
        self._file: int | None = None

    def __enter__(self) -> Self:
        if is_remote(self._path):
            self.at(BETWEEN_CASES)
            return self
        with store_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self.at(BETWEEN_CASES)
        return self

    def at(self, case_id: str) -> None:
        """Note that this case begins now, or `BETWEEN_CASES`."""
        if self._file is None:
            self._path.write_text(case_id, encoding="utf-8")
            return
        with store_errors(self._path):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, case_id.encode(), 0)

    def along(self, cases: Iterable[Item]) -> Iterator[Item]:
        """Cases one after the other, each noted while it is processed."""
        for case in cases:
            self.at(case.case_id)
            yield case
        self.at(BETWEEN_CASES)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.close(self._file)
