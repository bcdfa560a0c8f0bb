"""Fixtures that all tests share.

| fixture | what it is |
|---|---|
| `store` | an empty store in a folder of its own |
| `shared_data` | folder of a real CT series, beside the repository; the test is skipped where it is absent |
| `phantom_run` | a store with two phantom cohorts, ct and fundus, benchmarked with both baselines; read only |
"""

from pathlib import Path

import pytest

from storage.runs.requests import BenchmarkRequest
from storage.store.layout import StoreLayout, open_store
from tests import SHARED_DATA
from tests.stores.small import benchmark_here, ingest_here


@pytest.fixture
def store(tmp_path: Path) -> StoreLayout:
    return open_store(tmp_path / "store")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip("the real CT series (../shared/data/ct_abdomen) is not in the repository, see tests/data/README.md")
    return SHARED_DATA


@pytest.fixture(scope="session")
def phantom_run(tmp_path_factory: pytest.TempPathFactory) -> StoreLayout:
    layout = open_store(tmp_path_factory.mktemp("phantoms") / "store")
    ingest_here(layout, "phantom:ct,cases=5,size=6x40x48", "ct")
    ingest_here(layout, "phantom:fundus,cases=2,size=64x56", "fundus")
    benchmark_here(layout, BenchmarkRequest(("ct", "fundus"), ("baseline:box", "baseline:otsu"), ("box",), split="all"))
    return layout
