"""Fixtures of the datasets of the field.

| fixture | what it is |
|---|---|
| `every_dataset` | all of them on disk in their published layout, by name |
| `field_store` | a store with every dataset ingested and benchmarked with the box baseline; read only |
| `field_tables` | its views `cases` and `scores` as rows, read once |
"""

from typing import Any

import pytest

from storage.catalog.guard import run_sql
from storage.runs.requests import BenchmarkRequest
from storage.store.layout import StoreLayout, open_store
from tests.storage.sources.datasets import published_2d, published_3d
from tests.storage.sources.datasets.drawn import Published
from tests.stores.small import benchmark_here, ingest_here

WRITERS = {**published_2d.WRITERS, **published_3d.WRITERS}
BUILT_IN_VARIANTS = ("btcv_8",)


@pytest.fixture(scope="session")
def every_dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Published]:
    root = tmp_path_factory.mktemp("field")
    return {name: write(root / name) for name, write in WRITERS.items()}


@pytest.fixture(params=WRITERS)
def published(request: pytest.FixtureRequest, every_dataset: dict[str, Published]) -> Published:
    return every_dataset[request.param]


@pytest.fixture(scope="session")
def field_store(every_dataset: dict[str, Published], tmp_path_factory: pytest.TempPathFactory) -> StoreLayout:
    store = open_store(tmp_path_factory.mktemp("field-store") / "store")
    for name, dataset in every_dataset.items():
        reader = name if name in BUILT_IN_VARIANTS else "auto"
        ingest_here(store, str(dataset.folder), name, reader=reader)
    benchmark_here(store, BenchmarkRequest(tuple(every_dataset), ("baseline:box",), ("box",), split="all"))
    return store


@pytest.fixture(scope="session")
def field_tables(field_store: StoreLayout) -> dict[str, list[dict[str, Any]]]:
    return {view: run_sql(field_store, f"SELECT * FROM {view}").to_pylist() for view in ("cases", "scores")}
