"""The layers of the product and the rooms inside them, as data. Function-level imports count: a lazy cycle is a cycle.

A room is a folder of modules; `.` is the package's own. It may import the rooms that stand behind it, and each of these
stands before it in the list, so that imports point one way. `__main__` alone is above all rooms.
"""

import ast
import graphlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT

MAY_IMPORT = {
    "medsam3_core": set(),
    "storage": {"medsam3_core"},
    "tasks": {"medsam3_core", "storage"},
    "flows": {"medsam3_core", "storage", "tasks"},
    "dashboards": {"medsam3_core", "storage"},
    "medsam3": {"medsam3_core", "storage", "tasks", "flows"},
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
    "medsam3": {"prefect", "dask", "distributed", "duckdb", "zarr", "torch"},
}  # fmt: skip
ROOMS = {
    "medsam3_core": {
        ".": "",
        "agent.vocabulary": "",
        "cases": ".",
        "sam3.keys": ".",
        "settings": ".",
        "metrics": ". cases",
        "phantoms": ". cases",
        "prompts": ". cases settings",
        "sam3.tensors": ". settings",
        "inference": ". cases settings prompts",
        "sam3.fast": "sam3.tensors",
        "training.data": ". sam3.tensors",
        "agent": ". agent.vocabulary cases settings prompts inference",
        "sam3.network": ". sam3.keys settings prompts sam3.tensors sam3.fast",
        "sam3": ". settings prompts sam3.tensors inference sam3.network",
        "training.trainees": ". sam3.keys settings sam3.tensors sam3.network",
        "training.losses": ". sam3.tensors training.data sam3.network training.trainees",
        "training": (
            ". cases settings metrics prompts sam3.tensors inference sam3 "
            "training.data training.trainees training.losses"
        ),
    },
    "storage": {
        "store": "",
        "catalog": "store",
        "catalog.queries": "store catalog",
        "sources.listing": "store",
        "weights.checkpoints": "store",
        "sources.dicom": "store sources.listing",
        "sources.formats.volumes": "sources.listing",
        "sources.formats": "sources.listing sources.formats.volumes",
        "sources.layouts": "store sources.listing sources.dicom sources.formats.volumes sources.formats",
        "sources": "store sources.listing sources.formats.volumes sources.layouts",
        "cohorts": "store sources.listing sources",
        "prompts": "store sources.formats.volumes sources.formats cohorts",
        "weights": "store weights.checkpoints cohorts",
        "comparisons": "store catalog.queries weights",
        "runs": "store catalog catalog.queries cohorts prompts weights",
        "training": "store weights.checkpoints cohorts weights",
        "upkeep": "store catalog catalog.queries cohorts weights",
        "exports": (
            "store catalog.queries sources.listing sources.dicom sources.formats sources cohorts prompts weights runs"
        ),
        "exports.formats": "store sources.dicom sources.formats runs exports",
        "ingest": "store sources.listing sources.formats.volumes sources cohorts training",
    },
    "tasks": {
        "agent": "",
        "stream": "",
        ".": "agent stream",
        "predict": "agent",
    },
    "flows": {
        "messages": "",
        "settings": "messages",
        "cli.answers": "messages settings",
        "clusters": "messages settings",
        "service": "messages settings clusters",
        ".": "messages settings clusters service",
        "cli.upkeep": "messages settings clusters service .",
        "cli.work": "messages settings cli.answers clusters service .",
        "cli.commands": "settings cli.answers service cli.upkeep cli.work",
        "cli": "settings cli.commands",
    },
    "dashboards": {
        "figures": "",
        "report": "figures",
        "views": "figures",
        ".": "figures views",
    },
    "medsam3": {".": ""},
}
INSIDES = {"transformers.models": "medsam3_core.sam3.tensors.transformers_internals"}
"""Parts of other libraries that may change any day, and the one module that imports them; it has a test of its own.

Names that begin with `_` are ruff's to forbid (SLF) outside of modules called `..._internals`.
"""
BESIDE_THE_PRODUCT = {"tests", "benchmarks", "scripts"}
MAX_ENTRIES = 15
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
    forbidden = (MAY_IMPORT.keys() - MAY_IMPORT[package] - {package}) | FOREIGN[package] | BESIDE_THE_PRODUCT
    return {name.partition(".")[0] for name in imports_of(path, module)} & forbidden


@cache
def product_graph() -> dict[str, set[str]]:
    return module_graph(list(MAY_IMPORT))


def module_graph(packages: list[str], root: Path = ROOT) -> dict[str, set[str]]:
    files = {module_name(path, root): path for package in packages for path in (root / package).rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        found = {name for name in imports_of(path, module) if name in files and name != module}
        # `from package import name` where `package` re-exports it: the edge to the package itself is the import
        graph[module] = {name for name in found if not module.startswith(f"{name}.")}
    return graph


def packages_of(graph: dict[str, set[str]]) -> set[str]:
    return {module.rpartition(".")[0] for module in graph if "." in module}


def room_of(module: str, packages: set[str]) -> str:
    """The room of a module, relative to its package; the `__init__` of a room belongs to it."""
    parts = module.split(".")[1:]
    return ".".join(parts if module in packages else parts[:-1]) or "."


def arrows(graph: dict[str, set[str]], package: str) -> set[tuple[str, str]]:
    """Imports between the rooms of a package; what `__main__` imports does not count."""
    packages = packages_of(graph)
    found = {
        (room_of(module, packages), room_of(other, packages))
        for module, imported in graph.items()
        for other in imported
        if {module.partition(".")[0], other.partition(".")[0]} == {package} and not module.endswith(".__main__")
    }
    return {(one, other) for one, other in found if one != other}


def unlawful(graph: dict[str, set[str]], package: str, rooms: dict[str, str]) -> set[tuple[str, str]]:
    """Arrows that the table does not allow."""
    return {(one, other) for one, other in arrows(graph, package) if other not in rooms.get(one, "").split()}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_between_rooms_are_those_of_the_table(package: str) -> None:
    graph = product_graph()
    assert unlawful(graph, package, ROOMS[package]) == set()
    allowed = {(room, other) for room, others in ROOMS[package].items() for other in others.split()}
    assert allowed - arrows(graph, package) == set(), "in the table, but nobody imports so any more"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_rooms_import_only_rooms_above_them_in_the_table(package: str) -> None:
    seen: set[str] = set()
    for room, others in ROOMS[package].items():
        assert set(others.split()) <= seen, room
        seen.add(room)


def holds_code(path: Path) -> bool:
    """Whether a file is more than the docstring of an `__init__` and is no `__main__`."""
    return path.stem != "__main__" and (path.stem != "__init__" or len(ast.parse(path.read_text()).body) > 1)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_every_folder_of_modules_is_a_room_with_a_purpose_and_few_entries(package: str) -> None:
    rooms = {path.parent.relative_to(ROOT / package) for path in sources(package) if holds_code(path)}
    assert {".".join(room.parts) or "." for room in rooms} == ROOMS[package].keys()
    for folder in {path.parent for path in (ROOT / package).rglob("*") if "__pycache__" not in path.parts}:
        entries = {path.name for path in folder.iterdir()} - {"__init__.py", "__pycache__"}
        assert len(entries) <= MAX_ENTRIES, folder
    for folder in {path.parent for path in sources(package)}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder


DOTTED_NAME = re.compile(rf"({'|'.join(MAY_IMPORT.keys() - {'medsam3'})})(\.\w+)+")  # medsam3.toml is no module


def strays(path: Path) -> list[str]:
    """Names of our modules in strings of a file (imported late, started with `-m`) that lead nowhere."""
    constants = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
    return [name for name in constants if isinstance(name, str) and DOTTED_NAME.fullmatch(name) and not exists(name)]


def exists(name: str) -> bool:
    """Whether a dotted name is a module of ours, or something that one defines."""
    home, _, last = name.rpartition(".")
    file = ROOT / home.replace(".", "/")
    places = (file.with_suffix(".py"), file / "__init__.py")
    named = (place.read_text(encoding="utf-8") for place in places if place.is_file())
    return (ROOT / f"{name.replace('.', '/')}.py").is_file() or any(re.search(rf"\b{last}\b", text) for text in named)


@pytest.mark.parametrize("package", [*MAY_IMPORT, *sorted(BESIDE_THE_PRODUCT)])
def test_names_of_modules_in_strings_lead_somewhere(package: str) -> None:
    found = {str(path): bad for path in sources(package) if path.name != Path(__file__).name and (bad := strays(path))}
    assert found == {}


def test_the_check_of_strings_is_red_when_a_module_has_moved(tmp_path: Path) -> None:
    path = tmp_path / "late.py"
    path.write_text('import_module("storage.locations")\nimport_module("storage.store.locations")\n')
    assert strays(path) == ["storage.locations"]


@pytest.mark.parametrize("package", [package for package, rooms in ROOMS.items() if len(rooms) > 1])
def test_the_check_is_red_when_a_room_imports_one_that_stands_over_it(package: str) -> None:
    graph = product_graph()
    packages = packages_of(graph)
    lowest, *_, highest = ROOMS[package]
    module, other = (
        next(
            name
            for name in sorted(graph.keys() - packages)
            if name.partition(".")[0] == package and room_of(name, packages) == room and "__" not in name
        )
        for room in (lowest, highest)
    )
    assert unlawful({**graph, module: graph[module] | {other}}, package, ROOMS[package]) == {(lowest, highest)}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    found = {str(path): bad for path in sources(package) if (bad := trespasses(path, module_name(path), package))}
    assert found == {}


def inside(path: Path, module: str) -> set[str]:
    """Parts of `INSIDES` that a file imports although another module is their door."""
    imported = set(imports_of(path, module))
    return {
        part
        for part, door in INSIDES.items()
        if module != door and any(f"{name}.".startswith(f"{part}.") for name in imported)
    }


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_the_insides_of_other_libraries_enter_by_one_module(package: str) -> None:
    assert {str(path): bad for path in sources(package) if (bad := inside(path, module_name(path)))} == {}


def test_the_check_of_insides_is_red_where_another_module_imports_them(tmp_path: Path) -> None:
    path = tmp_path / "encoder.py"
    path.write_text("from transformers.models.sam3.modeling_sam3 import Sam3VisionNeck\n")
    assert inside(path, "medsam3_core.sam3.network.encoder") == {"transformers.models"}
    assert inside(path, INSIDES["transformers.models"]) == set()


def test_no_module_needs_itself_through_others() -> None:
    tuple(graphlib.TopologicalSorter(product_graph()).static_order())


WORDS_OF_A_QUERY = re.compile(r"\b(SELECT|UNION|JOIN|WHERE|GROUP BY|ORDER BY|INSERT|COPY|READ_PARQUET)\b")
CALLS_OF_THE_ENGINE = {"execute", "executemany", "sql"}
QUERIES_SHOWN = {
    "flows.cli.work.demo": "the commands that the demo ends with, to be pasted",
    "dashboards.views.sql": "examples that a user picks on the page SQL, run by the guard",
}
"""Modules with a query that a user reads or types; in the others it follows `medsam3 sql` in the same string."""


def queries_of(path: Path) -> set[str]:
    """SQL of a file: strings with words of a query, docstrings and commands for users apart, and calls that run it.

    A string with placeholders is looked at as a whole.
    """
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    wholes = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    apart = {id(part) for whole in wholes for part in whole.values}
    apart |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
    found = {ast.unparse(whole) for whole in wholes}
    constants = (node for node in nodes if isinstance(node, ast.Constant) and id(node) not in apart)
    found |= {node.value for node in constants if isinstance(node.value, str)}
    queries = {text for text in found if WORDS_OF_A_QUERY.search(text) and "medsam3 sql" not in text}
    calls = (node.func for node in nodes if isinstance(node, ast.Call))
    return queries | {ast.unparse(call) for call in calls if getattr(call, "attr", "") in CALLS_OF_THE_ENGINE}


def test_sql_lives_in_the_catalog_alone() -> None:
    found = {
        module: queries
        for package in MAY_IMPORT
        for path in sources(package)
        if not (module := module_name(path)).startswith("storage.catalog.") and (queries := queries_of(path))
    }
    assert found.keys() == QUERIES_SHOWN.keys(), found
    engines = [path for path in sources("storage") if "duckdb" in imports_of(path, module_name(path))]
    assert {room_of(module_name(path), set()) for path in engines} == {"catalog"}


@pytest.mark.parametrize(
    "line",
    [
        "rows = connection.execute(question)",
        'QUERY = "SELECT case_id FROM plan"',
        'query = f"{columns} WHERE run_id IN (SELECT run_id FROM {runs})"',
    ],
)
def test_the_check_of_sql_is_red_on_a_query_elsewhere(tmp_path: Path, line: str) -> None:
    path = tmp_path / "plan.py"
    path.write_text(f'"""SELECT in prose."""\n{line}\nmsg = f"see: medsam3 sql \\"SELECT {{name}} FROM runs\\""\n')
    assert len(queries_of(path)) == 1


def test_every_file_is_named_after_what_it_holds() -> None:
    found = [path for package in MAY_IMPORT for path in sources(package) if path.stem in ROOMS_WITHOUT_A_PURPOSE]
    assert found == []


def test_every_package_of_the_product_is_under_the_law() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - BESIDE_THE_PRODUCT <= MAY_IMPORT.keys()


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
