"""The layers of the product, as data. Function-level imports count: a lazy cycle is a cycle."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

MAY_IMPORT = {
    "medsam3_core": set(),
    "storage": {"medsam3_core"},
    "tasks": {"medsam3_core", "storage"},
    "flows": {"medsam3_core", "storage", "tasks"},
    "dashboards": {"medsam3_core", "storage"},
}
FOREIGN = {
    "medsam3_core": {
        "prefect", "dask", "distributed", "duckdb", "zarr", "pyarrow", "nibabel", "pydicom", "highdicom", "SimpleITK",
        "streamlit", "rich", "click",
    },
    "storage": {"prefect", "dask", "distributed", "streamlit", "rich", "click"},
    "tasks": {"duckdb", "zarr", "pyarrow", "prefect", "streamlit", "rich", "click"},
    "flows": {"numpy", "scipy", "duckdb", "zarr", "nibabel", "streamlit"},
    "dashboards": {"prefect", "dask", "distributed"},
}  # fmt: skip
ROOMS_WITHOUT_A_PURPOSE = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, module: str) -> Iterator[str]:
    """Every module that a file imports, wherever in the file; `from a import b` gives `a` and `a.b`."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def trespasses(path: Path, module: str, package: str) -> set[str]:
    """Packages that a file imports although its layer may not."""
    forbidden = (MAY_IMPORT.keys() - MAY_IMPORT[package] - {package}) | FOREIGN[package]
    return {name.partition(".")[0] for name in imports_of(path, module)} & forbidden


def module_graph(packages: list[str], root: Path = ROOT) -> dict[str, set[str]]:
    files = {module_name(path, root): path for package in packages for path in (root / package).rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        found = {name for name in imports_of(path, module) if name in files and name != module}
        # `from package import name` where `package` re-exports it: the edge to the package itself is the import
        graph[module] = {name for name in found if not module.startswith(f"{name}.")}
    return graph


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    found = {str(path): bad for path in sources(package) if (bad := trespasses(path, module_name(path), package))}
    assert found == {}


def test_no_module_needs_itself_through_others() -> None:
    tuple(graphlib.TopologicalSorter(module_graph(list(MAY_IMPORT))).static_order())


def test_every_file_is_named_after_what_it_holds() -> None:
    found = [path for package in MAY_IMPORT for path in sources(package) if path.stem in ROOMS_WITHOUT_A_PURPOSE]
    assert found == []


def test_every_package_of_the_product_is_under_the_law() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests", "benchmarks"} <= MAY_IMPORT.keys()


@pytest.mark.parametrize(
    "line", ["import prefect", "from prefect import flow", "import os, prefect.flows", "from flows import demo"]
)
@pytest.mark.parametrize(
    "body", ["{}", "def f():\n    {}", "if True:\n    try:\n        {}\n    finally:\n        pass"]
)
def test_the_check_is_red_when_core_reaches_out(tmp_path: Path, line: str, body: str) -> None:
    path = tmp_path / "geometry.py"
    path.write_text(body.format(line))
    assert trespasses(path, "medsam3_core.cases.geometry", "medsam3_core") in ({"prefect"}, {"flows"})


def test_the_check_sees_relative_imports(tmp_path: Path) -> None:
    path = tmp_path / "phantom.py"
    path.write_text("from .. import drawing\nfrom .shapes import Disc\n")
    found = set(imports_of(path, "house.room.phantom"))
    assert {"house.drawing", "house.room.shapes", "house.room.shapes.Disc"} <= found


def test_the_check_is_red_on_a_cycle_that_hides_in_a_function(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text("from room import b\n")
    (tmp_path / "room" / "b.py").write_text("def late():\n    from room.a import x\n")
    with pytest.raises(graphlib.CycleError, match="cycle"):
        graphlib.TopologicalSorter(module_graph(["room"], tmp_path)).prepare()
