"""Predictions in the store: one `.ozx` per case with one uint16 label image per structure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from medsam3_core.cases.geometry import VolumeGeometry
from storage.store.arrays import level_factors, open_group, write_label_levels, write_zip
from storage.store.ngff import NGFF_VERSION, geometry_attributes, geometry_from_attributes, prediction_attributes


class PredictionWriter:
    """Collects the label images of one case, structure by structure, and writes them in one step.

    Each image is compressed when added, so memory holds one dense structure at a time.
    """

    def __init__(self, geometry: VolumeGeometry, structures: Sequence[str], provenance: Mapping[str, Any]) -> None:
        self._geometry = geometry
        self._content: dict[str, Buffer] = {}
        root = zarr.create_group(
            MemoryStore(self._content),
            attributes={
                "ome": {"version": NGFF_VERSION},
                "medsam3": dict(provenance),
                **geometry_attributes(geometry),
            },
        )
        self._labels = root.create_group(
            "labels", attributes={"ome": {"version": NGFF_VERSION, "labels": list(structures)}}
        )

    def add(self, structure: str, labels: NDArray[np.uint16], scores: Iterable[float]) -> None:
        """Add one structure: labels (z, y, x), 0 background, 1..n by falling score."""
        factors = level_factors(self._geometry.shape_zyx)
        attributes = prediction_attributes(structure, self._geometry, factors, scores)
        write_label_levels(self._labels.create_group(structure, attributes=attributes), labels, factors)

    def write(self, target: Path) -> None:
        """Write the file; replaces an older prediction in one step.

        Raises:
            StoreError: If the file cannot be written.
        """
        write_zip(self._content, target)


@dataclass(frozen=True)
class StoredPrediction:
    """A prediction in the store."""

    group: zarr.Group

    @property
    def structures(self) -> tuple[str, ...]:
        """Structures of the prediction, in the order of the recipe or the request."""
        ome: Any = self.group["labels"].attrs["ome"]
        return tuple(ome["labels"])

    @property
    def provenance(self) -> dict[str, Any]:
        """Origin: run, batch and digests, see `storage.runs.ledger.provenance`."""
        stored: Any = self.group.attrs["medsam3"]
        return dict(stored)

    @property
    def batch_id(self) -> str:
        """Id of the batch that made it."""
        return str(self.provenance["attempt"])

    def labels(self, structure: str) -> NDArray[np.uint16]:
        """Label image (z, y, x) of one structure; `KeyError` for a structure that is not in the prediction."""
        array: Any = self.group[f"labels/{structure}/0"]
        return np.asarray(array[...], dtype=np.uint16)

    def geometry(self) -> VolumeGeometry:
        """Shape and position, equal to that of the case."""
        array: Any = self.group[f"labels/{self.structures[0]}/0"]
        return geometry_from_attributes(dict(self.group.attrs), tuple(array.shape))

    def scores(self, structure: str) -> tuple[float, ...]:
        """Score of instance 1..n of one structure."""
        attributes: Any = self.group[f"labels/{structure}"].attrs["ome"]
        return tuple(item["score"] for item in attributes["image-label"].get("properties", ()))

    def __iter__(self) -> Iterator[str]:
        return iter(self.structures)


def open_prediction(path: Path) -> StoredPrediction:
    """Open a prediction for reading.

    Raises:
        StoreError: If it is absent or damaged; names it.
    """
    return StoredPrediction(open_group(path))
